"""The GPUs that are here, and how fast a device computes: given, known by name, or measured."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from alignment.errors import ConfigError
from alignment.plan.work import Device

if TYPE_CHECKING:
    import torch

_UNITS = {"gb": 10**9, "gib": 2**30, "g": 2**30, "mb": 10**6, "mib": 2**20, "m": 2**20}
#: The share of a GPU's peak that training commonly reaches (PaLM, arXiv 2204.02311, table 3: 0.46).
_GPU_SHARE = 0.4
#: The share of a plain product's speed that the rest of a step on a CPU leaves.
_CPU_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that nvidia-smi names, with its memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What a stage is planned for.

    ``limit`` are the bytes of one device, None where they are unknown; ``counts`` how many devices
    to compare, none where each stage has its own.
    """

    device: Device
    gpus: Sequence[Gpu] = ()
    counts: Sequence[int] = ()
    limit: int | None = None
    tflops: float | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """Sustained operations a second of one device, and where that is known from."""

    flops: float
    source: str


def find_gpus() -> list[Gpu]:
    """The GPUs of this machine; none where nvidia-smi is not there or says nothing."""
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
        ConfigError: it is no amount of memory.
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
        ConfigError: they are not.
    """
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise ConfigError(f"--gpus: expected counts, got '{text}'", "as in --gpus 1,2,4,8")
    return sorted({int(word) for word in words})


def host_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def find_speed(machine: Machine, dtype: "torch.dtype") -> Speed | None:
    """The speed of one device that computes in a dtype; None where nothing is known of it."""
    if machine.tflops is not None:
        return Speed(machine.tflops * 1e12, f"{machine.tflops:g} TFLOP/s, as given")
    if machine.device == "cpu":
        return _measure_cpu(dtype)
    if not machine.gpus:
        return None
    from trl.trainer.utils import get_peak_flops  # TorchTitan's table, with more GPUs

    name = machine.gpus[0].name
    peak = get_peak_flops(name, "bfloat16")
    if peak is None:
        return None
    share = f"{_GPU_SHARE:.0%} of the {peak / 1e12:g} TFLOP/s peak of {name}"
    return Speed(peak * _GPU_SHARE, share)


@cache
def _measure_cpu(dtype: "torch.dtype") -> Speed:
    """Half a second of products, as large as a layer's."""
    import torch

    x = torch.rand(512, 1024).to(dtype)
    w = torch.rand(1024, 1024).to(dtype)
    x @ w  # the first product sets up the kernel
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < 0.5:
        x @ w
        count += 1
    flops = 2 * 512 * 1024 * 1024 * count / spent
    kind = str(dtype).removeprefix("torch.")
    source = f"{_CPU_SHARE:.0%} of the {flops / 1e9:.0f} GFLOP/s of {kind} products on this CPU"
    return Speed(flops * _CPU_SHARE, source)
