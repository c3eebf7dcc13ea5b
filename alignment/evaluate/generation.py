"""Load a model and generate answers with it, in left-padded batches of similar length.

Shapes: B rows of a batch, P longest prompt in it, T longest response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from alignment.errors import DataError
from alignment.models.device import default_device
from alignment.models.limits import read_limits
from alignment.models.policy import load_causal_model
from data_tools.formats.record import Unusable
from data_tools.rendering import Renderer, from_transformers

if TYPE_CHECKING:
    from alignment.evaluate.records import Prompt


@dataclass(frozen=True)
class Policy:
    """A causal language model in eval mode on its device, with its tokenizer and EOS tokens."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """The device for the inputs."""
        return self.model.device  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Generated:
    """Token ids of a prompt and of one response to it, including its EOS."""

    prompt_ids: list[int]
    ids: list[int]
    text: str
    eos: bool


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled: greedily at temperature 0, else from the full softmax."""

    max_new_tokens: int
    temperature: float
    batch_size: int
    seed: int


def load_policy(name: str, path: str, tokenizer: PreTrainedTokenizerBase) -> Policy:
    """Load a model for generation; it stops at its own EOS tokens and its tokenizer's."""
    model = load_causal_model(path, dtype=_dtype())
    model.to(default_device()).eval()
    ids = end_tokens(model.generation_config.eos_token_id, tokenizer)
    return Policy(name, model, tokenizer, ids)


def end_tokens(
    configured: int | list[int] | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """The tokens that end an answer: those of a generation config and the tokenizer's EOS."""
    eos = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({t for t in (*eos, tokenizer.eos_token_id) if t is not None}))


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    name: str,
    path: str,
) -> tuple[list[list[int]], int | None]:
    """Token ids of each prompt: messages through the chat template, strings as they are.

    Args:
        tokenizer: The model's.
        prompts: Messages or strings.
        name: The model, in messages of errors.
        path: The model, whose config says how much it can read.

    Returns:
        The ids, and the positions of the model; None: its config does not say how many.

    Raises:
        ConfigError: A prompt has messages and the tokenizer of model `name` has no chat template.
        DataError: The chat template rejects a prompt, or the model has no embedding for one of its
            tokens; the message counts prompts from 1.
    """
    renderer = Renderer(from_transformers(tokenizer), as_chat=False)
    spoken = []
    for row, prompt in enumerate(prompts, start=1):
        with _named(row, name):
            spoken.append(renderer.prompt(prompt))
    found = renderer.encode(spoken)
    positions, embeddings = read_limits(path, tokens=len(tokenizer))
    for row, tokens in enumerate(found, start=1):
        with _named(row, name):
            tokens.check_embeddings(embeddings)
    return [tokens.ids for tokens in found], positions


@contextmanager
def _named(row: int, model: str) -> Iterator[None]:
    """Name the prompt and the model in what makes a prompt unusable."""
    try:
        yield
    except Unusable as error:
        raise DataError(f"prompt {row}: model {model!r}: {error.reason}", error.remedy) from None


def check_context(
    prompt_ids: Sequence[Sequence[int]], max_new_tokens: int, *, context: int | None, name: str
) -> None:
    """Check that every prompt leaves room for its answer.

    Raises:
        DataError: A prompt does not; the message names the first one, counted from 1.
    """
    for row, ids in enumerate(prompt_ids, start=1):
        if context is not None and len(ids) + max_new_tokens > context:
            raise DataError(
                f"prompt {row}: {len(ids)} tokens and {max_new_tokens} new ones exceed the "
                f"maximum length of model {name!r}, {context}",
                "Lower max_new_tokens, or leave the prompt out.",
            )


def generate(
    policy: Policy,
    prompt_ids: Sequence[list[int]],
    sampling: Sampling,
    *,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[Generated]:
    """Generate one response to every prompt, longest first, so that lack of memory shows early.

    Greedy answers do not depend on the batch size: padding is on the left and masked, and
    positions are counted from the first real token. The sampling defaults of the model
    (`generation_config.json`: top-k, repetition penalty) are ignored, so that only the model itself
    is measured.

    Args:
        policy: The model; `prompt_ids` come from its tokenizer.
        prompt_ids: One list of token ids for each prompt.
        sampling: How to sample.
        advance: Called with the number of rows after each batch.

    Returns:
        Responses in the order of `prompt_ids`.
    """
    policy.model.generation_config = _generation_config(policy, sampling)
    torch.manual_seed(sampling.seed)
    found: dict[int, Generated] = {}
    for indices in batches_by_length([len(ids) for ids in prompt_ids], sampling.batch_size):
        rows = [prompt_ids[i] for i in indices]
        inputs, mask = _left_pad(rows, policy.tokenizer.pad_token_id)
        with torch.inference_mode():
            output = policy.model.generate(
                input_ids=inputs.to(policy.device), attention_mask=mask.to(policy.device)
            )
        for i, ids in zip(indices, output[:, inputs.shape[1] :].tolist(), strict=True):
            found[i] = _generated(policy, prompt_ids[i], ids)
        advance(len(indices))
    return [found[i] for i in range(len(prompt_ids))]


def batches_by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first; equal lengths keep their order."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _generation_config(policy: Policy, sampling: Sampling) -> GenerationConfig:
    sampled: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        sampled = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": 0,
            "top_p": 1.0,
        }
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(policy.eos_ids),
        pad_token_id=policy.tokenizer.pad_token_id,
        use_cache=True,
        **sampled,
    )


def _left_pad(rows: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `(B, P)` with the last prompt token in the last column."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _generated(policy: Policy, prompt_ids: list[int], ids: list[int]) -> Generated:
    """Cut a response after its first EOS; the rest is padding."""
    end = next((i for i, token in enumerate(ids) if token in policy.eos_ids), None)
    kept = ids if end is None else ids[: end + 1]
    text = policy.tokenizer.decode(kept, skip_special_tokens=True)
    return Generated(prompt_ids, kept, str(text), end is not None)


def _dtype() -> torch.dtype | str:
    """float32 on a CPU, where it is fast and most precise; else the saved dtype."""
    return torch.float32 if default_device().type == "cpu" else "auto"
