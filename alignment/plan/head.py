"""The memory of TRL's fused LM head, which computes logits in tiles and never holds all of them.

TRL 1.16 (trl/kernels/chunked_logprob.py) multiplies 4,096 tokens by 32,768 words of the vocabulary
at a time. On a GPU its kernel works inside that tile; on a CPU torch makes copies of it. Tensors
without storage know no GPU, so TRL's own head would always count as on a CPU. The head here
allocates what TRL's does on either device, and computes nothing.

Shapes: B rows, L tokens of a row, N tokens of a batch, H hidden size, V vocabulary.
"""

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Tokens and words of the vocabulary in one tile.
TILE = (4096, 32768)
#: Float32 copies of a tile that exist at once on a CPU. Forward: the logits, their distance to the
#: maximum and its exponential, with a mask of one byte. Backward: the logits before and after the
#: temperature, log-probabilities, probabilities, the gradient and two terms of it, with a mask.
#: Outputs that a stage does not ask for are included; a soft cap on logits (Gemma 2) is not.
_FORWARD_COPIES, _BACKWARD_COPIES = 3.25, 7.25
#: Numbers of each token that TRL keeps until backward, such as its maximum and its target, at most.
_STATISTICS = 16


@dataclass(slots=True)
class HeadOutput:
    """What stages read from the fused head, `(B, L)`."""

    log_probs: Tensor
    entropy: Tensor
    aux_loss: None = None


def add_head(model: Any, *, is_gpu: bool) -> None:
    """Let `model(..., fused_lm_head=True)` take the memory that TRL's `add_fused_lm_head` takes."""
    plain = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, shift_labels: Any = None, **kwargs: Any
    ) -> Any:
        if not fused_lm_head:
            return plain(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state
        if shift_labels is None:  # the last token of a row predicts nothing
            hidden = hidden[:, :-1]
        rows = hidden.reshape(-1, hidden.size(-1))
        found: Any = _Head.apply(rows, self.get_output_embeddings().weight, is_gpu)  # type: ignore[no-untyped-call]
        return HeadOutput(*(x.view(hidden.shape[:2]) for x in found))

    model.forward = types.MethodType(forward, model)


class _Head(torch.autograd.Function):
    """Log-probabilities and entropies `(N,)` of states `(N, H)` by the head's weight `(V, H)`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, is_gpu: bool) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # an entropy without gradient costs nothing in backward
        statistics = hidden.new_empty((_STATISTICS, len(hidden)), dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, statistics)
        ctx.is_gpu, ctx.dtype = is_gpu, hidden.dtype
        if torch.is_autocast_enabled("cpu"):
            ctx.dtype = torch.get_autocast_dtype("cpu")
        tokens, words, tile = _factors(hidden, weight, ctx)
        del words
        _copy(tile, 0 if is_gpu else _FORWARD_COPIES)
        del tokens
        return statistics[0].clone(), statistics[1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        hidden, weight, _ = ctx.saved_tensors
        by_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = torch.zeros_like(weight, dtype=torch.float32)
        tokens, words, tile = _factors(hidden, weight, ctx)
        if not ctx.is_gpu:
            _copy(tile, _BACKWARD_COPIES + (gradients[1] is not None))
            summed = tile.float(), words.float()  # gradients add up in float32
            del summed
        del tokens, words, tile
        if by_weight is not None:
            by_weight = by_weight.to(weight.dtype)
        return by_hidden.to(hidden.dtype), by_weight, None


def _factors(hidden: Tensor, weight: Tensor, ctx: Any) -> tuple[Tensor, Tensor, Tensor]:
    """States and weights of a tile in the dtype of the product, and the tile itself.

    TRL's buffer is as wide as a tile can be. On a CPU what lies beyond the vocabulary is never
    touched, so it takes no memory; on a GPU it does.
    """
    tokens = hidden[: TILE[0]].to(ctx.dtype)
    words = weight[: TILE[1]].to(ctx.dtype)
    width = TILE[1] if ctx.is_gpu else len(words)
    return tokens, words, tokens.new_empty(len(tokens), width)


def _copy(tile: Tensor, copies: float) -> None:
    tile.new_empty(int(copies * tile.numel()), dtype=torch.float32)
