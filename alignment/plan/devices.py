"""The devices to plan for: the GPUs of this machine, and sizes and counts as they are written."""

import subprocess

import psutil  # type: ignore[import-untyped]

from alignment.errors import ConfigError
from alignment.plan.work import Device, Gpu, Machine

_UNITS = {"gb": 10**9, "gib": 2**30, "g": 2**30, "mb": 10**6, "mib": 2**20, "m": 2**20}


def describe_machine(
    gpus: str | None, memory: str | None, device: Device | None, tflops: float | None
) -> Machine:
    """The machine that the options of `align plan` describe.

    Args:
        gpus: Numbers of GPUs, as in ``1,2,4``.
        memory: Of each device, as in ``24GB``; None: that of this machine.
        device: None: a GPU if this machine has one or if another option is about GPUs.
        tflops: What a device reaches.

    Raises:
        ConfigError: An option cannot be read, or asks for several CPUs.
    """
    limit, counts = parse_memory(memory) if memory else None, parse_counts(gpus) if gpus else []
    found = [] if device == "cpu" else find_gpus()
    if device is None:
        device = "gpu" if found or memory or gpus else "cpu"
    if device == "cpu" and counts not in ([], [1]):
        raise ConfigError(f"--gpus: {gpus} on a CPU", "leave --device cpu out")
    if limit is None and device == "cpu":
        limit = psutil.virtual_memory().total
    if limit is None:
        limit = min((gpu.memory for gpu in found), default=None)
    return Machine(device, found, counts, limit, tflops)


def find_gpus() -> list[Gpu]:
    """The GPUs of this machine; none if nvidia-smi is missing or prints nothing."""
    words = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rpartition(",") for line in done.stdout.splitlines() if "," in line]
    return [
        Gpu(name.strip(), int(size) * 2**20) for name, _, size in rows if size.strip().isdigit()
    ]


def parse_memory(text: str) -> int:
    """`24GB`, `80GiB` or `24` (GiB) in bytes.

    Raises:
        ConfigError: It is not a size.
    """
    word = text.strip().lower()
    number = word.rstrip("gmib")
    unit = word[len(number) :] or "gib"
    try:
        size = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ConfigError(
            f"--memory: expected a size, got '{text}'", "as in --memory 24GB"
        ) from None
    if size <= 0:
        raise ConfigError(f"--memory: {text}: must be over 0", "as in --memory 24GB")
    return int(size)


def parse_counts(text: str) -> list[int]:
    """`1,2,4,8` as numbers of GPUs.

    Raises:
        ConfigError: They are not numbers of 1 or more.
    """
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise ConfigError(f"--gpus: expected counts, got '{text}'", "as in --gpus 1,2,4,8")
    return sorted({int(word) for word in words})
