"""Undo work on a trainer, so that a run after it has bit-identical results.

Shapes: N numbers of a parameter.
"""

import copy
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer  # type: ignore[import-untyped]
from torch import Tensor, nn
from transformers import TrainingArguments

#: The types of counters; a forward changes no other attribute of a module.
_SIMPLE = (bool, int, float, str, type(None))


class LocalAccelerator:
    """An accelerator that treats this process as the only one.

    A process that runs out of memory never reaches the point at which the others wait for it, so no
    process may wait while a batch is tried.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.accelerator, name)

    def gather(self, tensor: Any) -> Any:
        """Return what this process has."""
        return tensor

    def gather_for_metrics(self, input_data: Any, use_gather_object: bool = False) -> Any:
        """Return what this process has."""
        return input_data

    def reduce(self, tensor: Any, reduction: str = "sum", scale: float = 1.0) -> Any:
        """Return what this process has."""
        return tensor


@contextmanager
def undone(trainer: Any) -> Iterator[Any]:
    """Yield a copy of a trainer for forward and backward passes, then undo their changes.

    Counters, settings and metrics change only on the copy. The model is shared: its buffers, the
    counters of its modules and the random states are restored. Its gradients are deleted, as they
    are between two steps.
    """
    model: nn.Module = trainer.model
    modules = [(module, dict(module.named_buffers(recurse=False))) for module in model.modules()]
    # No module says which of its attributes a forward changes (RoPE counts the longest text).
    counters = [(vars(module), _counters(module)) for module, _ in modules]
    values = [(x, x.detach().clone()) for x in model.buffers()]
    random_states = RandomStates(trainer.args)
    try:
        yield _copy_of(trainer)
    finally:
        random_states.put_back()
        for attributes, before in counters:
            attributes.update(before)
        for module, buffers in modules:
            for name, buffer in buffers.items():
                setattr(module, name, buffer)  # RoPE of dynamic length registers another tensor
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        for parameter in model.parameters():
            parameter.grad = None


class RandomStates:
    """The random states of Python, numpy and torch at the time of creation."""

    def __init__(self, args: TrainingArguments) -> None:
        self.python, self.numpy = random.getstate(), np.random.get_state()
        self.torch = torch.get_rng_state()
        self.devices: dict[int, Tensor] = {}
        if args.device.type != "cpu":
            self.module = torch.get_device_module(args.device)
            used = range(args.n_gpu) if args.n_gpu > 1 else [self.module.current_device()]
            self.devices = {number: self.module.get_rng_state(number) for number in used}

    def put_back(self) -> None:
        """Restore the random states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        for number, state in self.devices.items():
            self.module.set_rng_state(state, number)


@contextmanager
def memory_of_later_steps(trainer: Any, *, accumulates: bool) -> Iterator[None]:
    """Allocate what is in memory next to a batch from step 2 on.

    These are the states of the optimizer, which a fresh one makes in its first step, after the
    first batch, and the gradients of earlier micro-batches.
    """
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    held: list[Tensor] = []
    # a resumed run has them; paged ones may leave the device
    if not trainer.optimizer.state and "paged" not in str(trainer.args.optim):
        each = {p.dtype: state_bytes(trainer.optimizer, like=p) for p in trained}
        for p in trained:
            count = int(p.numel() * each[p.dtype])
            held.append(torch.empty(count, dtype=torch.uint8, device=p.device))
    if accumulates:
        for p in trained:
            p.grad = torch.zeros_like(p)
    try:
        yield
    finally:
        held.clear()
        for p in trained:
            p.grad = None


def state_bytes(optimizer: Any, *, like: Tensor) -> float:
    """Bytes that an optimizer keeps for each number of a parameter, measured on a small one.

    If no such optimizer can be made from its defaults, two numbers are assumed, as in Adam.
    """
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    # bitsandbytes keeps parameters of fewer than 4,096 numbers in 32 bits
    weight = nn.Parameter(torch.zeros(128, 128, dtype=like.dtype, device=like.device))
    weight.grad = torch.zeros_like(weight)
    known = signature(type(inner).__init__).parameters
    try:
        small = type(inner)([weight], **{k: v for k, v in inner.defaults.items() if k in known})
        small.step()
    except (TypeError, ValueError, KeyError):
        return 2.0 * weight.element_size()
    kept = [x for x in small.state[weight].values() if isinstance(x, Tensor) and x.numel() > 1]
    return sum(x.nbytes for x in kept) / weight.numel()


def _copy_of(trainer: Any) -> Any:
    """A copy of a trainer with its own counters, settings and metrics that does not synchronise."""
    lent = copy.copy(trainer)
    lent.args, lent.state = copy.copy(trainer.args), copy.copy(trainer.state)
    lent.accelerator = LocalAccelerator(trainer.accelerator)
    lent._metrics = {mode: defaultdict(list) for mode in trainer._metrics}
    return lent


def _counters(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if isinstance(value, _SIMPLE)}
