"""Ways to share a model between devices with which a stage is known to fail."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from alignment.errors import ConfigError

if TYPE_CHECKING:
    from alignment.registry import Stage, Values

Strategy: TypeAlias = Literal["ddp", "zero2", "zero3", "fsdp1", "fsdp2"]


def launched_strategy() -> Strategy:
    """The strategy that accelerate's launcher has set in the environment of this process."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp2" if os.environ.get("FSDP_VERSION") == "2" else "fsdp1"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return "zero3" if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else "zero2"
    return "ddp"


def configured_strategy(keys: Mapping[str, Any]) -> Strategy:
    """The strategy that a config file of accelerate asks for."""
    match keys.get("distributed_type"):
        case "FSDP":
            version = (keys.get("fsdp_config") or {}).get("fsdp_version", 1)
            return "fsdp2" if int(version) == 2 else "fsdp1"
        case "DEEPSPEED":
            return "zero3" if zero_stage(keys) == 3 else "zero2"
    return "ddp"


def zero_stage(keys: Mapping[str, Any]) -> int:
    """The stage of ZeRO in a config file that asks for DeepSpeed."""
    return int((keys.get("deepspeed_config") or {}).get("zero_stage", 2))


def works_with(stage: Stage, values: Values, strategy: Strategy) -> bool:
    """Whether a stage is not known to fail with a strategy."""
    if not stage.critic:
        return True
    return strategy != "fsdp2" and not (strategy == "zero3" and values["critic"] == "model")


def refuse_strategy(stage: Stage, values: Values, strategy: Strategy) -> None:
    """Refuse what would fail after the model is loaded, or when it is saved.

    Raises:
        ConfigError: The stage does not work with the strategy.
    """
    if works_with(stage, values, strategy):
        return
    if strategy == "fsdp2":
        raise ConfigError(
            f"{stage.name} does not run under FSDP2: it fails at the start or when it saves",
            "use DDP (--nproc N), --accelerate zero2 or zero3, or fsdp1",
        )
    raise ConfigError(
        f"{stage.name} with critic: model does not run under ZeRO-3",
        "set critic: head or lora, or use --accelerate zero2",
    )
