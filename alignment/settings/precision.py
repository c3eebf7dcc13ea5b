"""Mixed precision: whether a run computes in bfloat16."""

from collections.abc import Mapping
from typing import Any


def uses_bf16(values: Mapping[str, Any], *, gpu: bool | None = None) -> bool:
    """Whether a run computes in bfloat16: as its keys say, else if there is a GPU that can.

    TRL's own default is bfloat16 everywhere, which fails on a machine without a GPU.

    Args:
        values: The keys `bf16`, `fp16` and `use_cpu`; one that is absent is not set.
        gpu: Whether there is such a GPU; None: look on this machine.
    """
    if values.get("bf16") is not None:
        return bool(values["bf16"])
    if values.get("fp16") or values.get("use_cpu"):
        return False
    return _gpu_has_bf16() if gpu is None else gpu


def _gpu_has_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
