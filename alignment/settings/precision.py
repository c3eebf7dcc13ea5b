"""The precision of a run: whether it computes in bfloat16, and the dtype of the weights."""

from collections.abc import Mapping
from typing import Any

#: Dtypes whose steps are so coarse that most updates of a whole model round to nothing.
COARSE = ("bfloat16", "float16")
#: Optimizers of torchao that round stochastically if ``optim_args`` says so.
_STOCHASTIC = ("adamw_torch_4bit", "adamw_torch_8bit")


def uses_bf16(values: Mapping[str, Any], *, gpu: bool | None = None) -> bool:
    """Whether a run computes in bfloat16: as its keys say, else if there is a GPU that can.

    TRL's own default is bfloat16 everywhere, which fails on a machine without a GPU. An adapter is
    sampled, scored and trained in the precision of its base, if ``dtype`` names one.

    Args:
        values: The keys `bf16`, `fp16`, `use_cpu`, `use_peft` and `dtype`; one that is absent is
            not set.
        gpu: Whether there is such a GPU; None: look on this machine.
    """
    if values.get("bf16") is not None:
        return bool(values["bf16"])
    if values.get("fp16"):
        return False
    if values.get("use_peft") and values.get("dtype") in ("float32", "bfloat16"):
        return bool(values["dtype"] == "bfloat16")
    if values.get("use_cpu"):
        return False
    return _gpu_has_bf16() if gpu is None else gpu


def loaded_dtype(values: Mapping[str, Any], *, adapted: bool, gpu: bool | None = None) -> str:
    """The dtype that the weights of a policy are loaded in; ``auto`` is that of its files.

    A whole model keeps float32 weights, so that small updates are not rounded away. The base of an
    adapter does not change, so it has the precision that the run computes in.

    Args:
        values: The settings of a stage; ``dtype`` is None if it was not given.
        adapted: Whether an adapter is trained, not the whole model.
        gpu: As in `uses_bf16`.
    """
    given = values["dtype"]
    if not adapted:
        return str(given) if given and rounds_stochastically(values) else "float32"
    if given is not None and not (given == "auto" and values["load_in_4bit"]):
        return str(given)
    return "bfloat16" if uses_bf16(values, gpu=gpu) else "float32"


def rounds_stochastically(values: Mapping[str, Any]) -> bool:
    """Whether the optimizer rounds bfloat16 weights up or down at random, so that none stay."""
    words = str(values["optim_args"] or "").replace(" ", "").lower().split(",")
    return values["optim"] in _STOCHASTIC and "bf16_stochastic_round=true" in words


def loses_updates(values: Mapping[str, Any]) -> bool:
    """Whether a whole model would be trained in a dtype that most updates are too small for."""
    is_held = values["dtype"] == "bfloat16" and rounds_stochastically(values)
    return not values["use_peft"] and values["dtype"] in COARSE and not is_held


def splits_precision(values: Mapping[str, Any]) -> bool:
    """Whether an adapter in bfloat16 would be trained on a base in float32."""
    return bool(values["use_peft"] and values["bf16"]) and values["dtype"] == "float32"


def computes_in_float32(values: Mapping[str, Any]) -> bool:
    """Whether no part of a run would be in 16 bits, even on a GPU that can."""
    is_coarse = values["dtype"] in COARSE or bool(values["fp16"])
    return not is_coarse and not uses_bf16(values, gpu=True)


def _gpu_has_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
