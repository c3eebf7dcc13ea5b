"""Models from their folders: whole ones, and LoRA adapters on the base that they name."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from alignment.models.folders import adapter_base


@dataclass(frozen=True)
class Policy:
    """A causal language model in eval mode on its device, with its tokenizer."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        return self.model.device  # type: ignore[no-any-return]


def load_policy(name: str, path: str, tokenizer: PreTrainedTokenizerBase) -> Policy:
    """Load a language model to generate with; it ends at its own and its tokenizer's EOS."""
    kind = AutoModelForCausalLM if adapter_base(path) is None else AutoPeftModelForCausalLM
    model: Any = kind.from_pretrained(path, dtype=_dtype())
    model.to(_device()).eval()
    configured = model.generation_config.eos_token_id
    eos = configured if isinstance(configured, list) else [configured]
    ids = {token for token in (*eos, tokenizer.eos_token_id) if token is not None}
    return Policy(name, model, tokenizer, tuple(sorted(ids)))


def describe_device() -> str:
    """The accelerator's name, or `cpu`."""
    device = _device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _device() -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")


def _dtype() -> torch.dtype | str:
    """float32 on a CPU, where it is fast and answers do not hang on rounding; else as saved."""
    return torch.float32 if _device().type == "cpu" else "auto"
