"""Load models for generation on the device of this process."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from alignment.models.device import default_device
from alignment.models.policy import load_causal_model


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


def describe_device() -> str:
    """The accelerator's name, or `cpu`."""
    device = default_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _dtype() -> torch.dtype | str:
    """float32 on a CPU, where it is fast and most precise; else the saved dtype."""
    return torch.float32 if default_device().type == "cpu" else "auto"
