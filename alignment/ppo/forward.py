"""One forward of the policy for log-probabilities, entropy and values of the response.

It goes through the module that Trainer wraps, so DDP, FSDP and DeepSpeed see a single forward.

Shapes: B rows, P prompt tokens (padded on the left), T response tokens (padded on the right).
"""

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from alignment.ppo import math


@dataclass
class ResponseOutput(ModelOutput):
    """What policy and critic say of each response token; all fields are `(B, T)`."""

    logps: Tensor = None  # type: ignore[assignment]  # ModelOutput needs a default
    entropy: Tensor = None  # type: ignore[assignment]
    state_values: Tensor = None  # type: ignore[assignment]  # ModelOutput has a method `values`
    aux_loss: Tensor = None  # type: ignore[assignment]


#: Whether the entropy is computed, and whether a gradient flows through it.
Entropy = Literal["none", "value", "gradient"]

#: 0.5 GB in float32. More logits are computed in tiles, and again in backward, by TRL's fused head.
_MAX_LOGITS = 2**27
#: Keys of a model's config that change its logits after the head; TRL's fused head knows them.
_SCALES = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


def add_response_forward(
    model: Any,
    *,
    temperature: float,
    critic: nn.Module | None = None,
    max_logits: int | None = None,
) -> None:
    """Let `model(input_ids, attention_mask, response_length=T)` return a ResponseOutput.

    The LM head runs on the real response tokens alone: with all logits in memory on a CPU if they
    are small, else through TRL's fused head, which keeps them out of memory and which the model
    must have. Without `response_length` the forward is the one before, so generation, saving and
    evaluation do not change. The critic becomes the submodule `critic` of the model.

    Args:
        model: The causal language model itself (a PreTrainedModel), not its PEFT wrapper.
        temperature: Logits are divided by it, as when sampling.
        critic: Maps hidden states and inputs to values; see `alignment.ppo.critic`.
        max_logits: On a CPU, more logits than these are computed in tiles. Default: 2 ** 27.
    """
    # The method is replaced on the object: wrappers call the forward of what they wrap, and only
    # that of this very model, so no other module can take its place.
    fused = model.forward
    takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters
    text_config = model.config.get_text_config().to_dict()
    is_scaled = any(text_config.get(name) is not None for name in _SCALES)
    if critic is not None:
        model.critic = critic

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        response_length: int | None = None,
        entropy: Entropy = "none",
        with_values: bool = False,
        detach_trunk: bool = False,
        **kwargs: Any,
    ) -> Any:
        if response_length is None:
            return fused(*args, **kwargs)
        if takes_positions:
            # As in generation; a model that counts padding would score another distribution.
            kwargs["position_ids"] = positions(kwargs["attention_mask"])
        targets = kwargs["input_ids"][:, -response_length:]
        is_real = kwargs["attention_mask"][:, -response_length:] != 0
        head = self.get_output_embeddings()
        limit = _MAX_LOGITS if max_logits is None else max_logits
        is_small = targets.numel() * head.weight.size(0) <= limit
        wants_router = kwargs.get("output_router_logits", False)
        if targets.device.type == "cpu" and is_small and not is_scaled and not wants_router:
            states = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state
            hidden = response_window(states, response_length)
            output = plain_head(head, hidden, targets, is_real, temperature, entropy)
        else:
            hidden, output = _fused_head(self, fused, response_length, is_real, args, kwargs)
        if with_values:
            kwargs.pop("output_router_logits", None)
            trunk = hidden.detach() if detach_trunk else hidden
            output.state_values = self.critic(trunk, response_length=response_length, **kwargs)
        return output

    model.forward = types.MethodType(forward, model)


def plain_head(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    is_real: Tensor,
    temperature: float,
    entropy: Entropy,
) -> ResponseOutput:
    """Score tokens with all their logits in memory, which is fastest if they are few.

    Shape:
        hidden: `(B, T, H)`; targets, is_real and the fields of the result: `(B, T)`.
    """
    logits = head(hidden[is_real]).float()
    if temperature != 1.0:
        logits = logits / temperature
    every = torch.log_softmax(logits, dim=-1)
    logps = every.gather(1, targets[is_real].unsqueeze(1)).squeeze(1)
    found = ResponseOutput(logps=_spread(logps, is_real))
    if entropy != "none":
        each = math.entropy(every if entropy == "gradient" else every.detach())
        found.entropy = _spread(each, is_real)
    return found


def _fused_head(
    model: Any,
    fused: Callable[..., Any],
    response_length: int,
    is_real: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Tensor, ResponseOutput]:
    """Score tokens with TRL's fused head; return the states too, which it does not."""
    hidden: list[Tensor] = []

    def keep_response(module: nn.Module, inputs: Any, output: Any) -> Any:
        window = response_window(output.last_hidden_state, response_length)
        hidden.append(window)
        output.last_hidden_state = window
        return output

    labels = kwargs["input_ids"][:, -response_length:].masked_fill(~is_real, -100)
    handle = model.base_model.register_forward_hook(keep_response)
    try:
        output = fused(*args, **kwargs, shift_labels=labels, fused_lm_head=True)
    finally:
        handle.remove()
    return hidden[0], ResponseOutput(
        logps=output.log_probs, entropy=output.entropy, aux_loss=output.aux_loss
    )


def _spread(x: Tensor, is_real: Tensor) -> Tensor:
    """Put one number for each real token into its place, `(B, T)`, and 0 elsewhere."""
    return x.new_zeros(is_real.shape).masked_scatter(is_real, x)


def positions(attention_mask: Tensor) -> Tensor:
    """Number the real tokens from 0, as generation does, so that padding shifts none of them.

    Shape:
        attention_mask, result: `(B, L)`.
    """
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def response_window(hidden: Tensor, response_length: int) -> Tensor:
    """Select the states s_t, each from before response token t.

    Shape:
        hidden: `(B, P + T, H)`; the result: `(B, T, H)`.
    """
    return hidden[:, -response_length - 1 : -1]
