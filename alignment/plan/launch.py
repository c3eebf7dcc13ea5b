"""How a recipe is launched: on how many devices, and what they share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.pipeline.launch import take_launch_words
from alignment.plan.work import Launch, Sharding
from alignment.settings.strategies import Strategy, configured_strategy, zero_stage
from alignment.settings.yaml_file import read_yaml

_ZERO: dict[int, Sharding] = {2: "zero2", 3: "zero3"}


def read_launch(argv: Sequence[str]) -> tuple[Launch, Strategy, list[str]]:
    """Take `--nproc` and `--accelerate` from a command line; `--nproc` overrides the file.

    Returns:
        What they say, the strategy of the file by its own name, and the words that are left.

    Raises:
        ConfigError: There is no such file or preset, or the number is none.
    """
    words, rest = take_launch_words(list(argv))
    given = dict(zip(words[::2], words[1::2], strict=True))
    keys: dict[str, Any] = {}
    if "--config_file" in given:
        keys = {entry.key: entry.value for entry in read_yaml(Path(given["--config_file"]))}
    gpus = int(given.get("--num_processes") or keys.get("num_processes") or 1)
    return Launch(gpus, _sharding(keys)), configured_strategy(keys), rest


def _sharding(keys: dict[str, Any]) -> Sharding | None:
    match keys.get("distributed_type", "MULTI_GPU"):
        case "DEEPSPEED":
            return _ZERO.get(zero_stage(keys))
        case "FSDP":
            return "zero3"
        case "MULTI_GPU" | "MULTI_CPU" | "NO":
            return "ddp"
    return None
