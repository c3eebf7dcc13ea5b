"""How fast a device computes: given, known by its name, or measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignment.plan.work import Machine

#: The share of a GPU's peak that training commonly reaches (PaLM, arXiv 2204.02311, table 3: 0.46).
_GPU_SHARE = 0.4
#: The share of a plain product's speed that a whole step reaches on a CPU.
_CPU_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Speed:
    """Operations a second that one device sustains, and how that is known."""

    flops: float
    source: str


def find_speed(machine: Machine, dtype: str) -> Speed | None:
    """The speed of one device that computes in a dtype; None if nothing is known about it."""
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
def _measure_cpu(dtype: str) -> Speed:
    """Multiply matrices as large as a layer's for half a second."""
    import torch

    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    x = torch.rand(512, 1024).to(kind)
    w = torch.rand(1024, 1024).to(kind)
    x @ w  # the first product sets up the kernel
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < 0.5:
        x @ w
        count += 1
    flops = 2 * 512 * 1024 * 1024 * count / spent
    source = f"{_CPU_SHARE:.0%} of the {flops / 1e9:.0f} GFLOP/s of {dtype} products on this CPU"
    return Speed(flops * _CPU_SHARE, source)
