"""Work on a trainer that leaves no trace.

Random states, counters, metrics and gradients are put back as they were.
A run with such work before step 1 ends in the same bits as one without.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

#: What counters are made of; whatever else hangs on a module or a trainer, a forward leaves alone.
_SIMPLE = (bool, int, float, str, type(None))
_GATHERS = ("gather", "gather_for_metrics", "reduce")


@contextmanager
def traceless(trainer: Any) -> Iterator[None]:
    """Put back what forward and backward passes change on a trainer, its model and random states.

    Gradients are gone afterwards, as they are between two steps.
    """
    model: nn.Module = trainer.model
    owners = [*model.modules(), trainer, trainer.args]
    simple = [(vars(owner), _simple(owner)) for owner in owners]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    metrics = {mode: {k: list(v) for k, v in found.items()} for mode, found in _metrics(trainer)}
    random_states = RandomStates(trainer.args)
    try:
        yield
    finally:
        random_states.put_back()
        for attributes, saved in simple:
            attributes.update(saved)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for mode, found in _metrics(trainer):
            found.clear()
            found.update(metrics[mode])
        for parameter in model.parameters():
            parameter.grad = None


class RandomStates:
    """The random states of python, numpy and torch, kept to be put back."""

    def __init__(self, args: TrainingArguments) -> None:
        self.python, self.numpy = random.getstate(), np.random.get_state()
        self.torch = torch.get_rng_state()
        self.devices: dict[int, Tensor] = {}
        if args.device.type != "cpu":
            self.module = torch.get_device_module(args.device)
            used = range(args.n_gpu) if args.n_gpu > 1 else [self.module.current_device()]
            self.devices = {number: self.module.get_rng_state(number) for number in used}

    def put_back(self) -> None:
        """Let all that is drawn from here on be what it would have been."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        for number, state in self.devices.items():
            self.module.set_rng_state(state, number)


@contextmanager
def alone(accelerator: Any) -> Iterator[None]:
    """Let this process work without the others.

    One that runs out of memory never comes to where the others wait for it, so nothing is gathered
    meanwhile: each process takes its own part for the whole.
    """
    local = dict.fromkeys(_GATHERS, lambda x, *args, **kwargs: x)
    vars(accelerator).update(local)
    try:
        yield
    finally:
        for name in _GATHERS:
            del vars(accelerator)[name]


@contextmanager
def standing_memory(trainer: Any, *, accumulates: bool) -> Iterator[None]:
    """Hold what stands beside a batch from step 2 on: optimizer states, gradients that add up.

    The states of a fresh optimizer come only with its first step, after the first batch.
    """
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    held: list[Tensor] = []
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

    Where it cannot be made with the defaults that it carries, two numbers are assumed, as of Adam.
    """
    inner = vars(optimizer).get("optimizer", optimizer)  # accelerate's wrapper, or none
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


def _simple(owner: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if isinstance(value, _SIMPLE)}


def _metrics(trainer: Any) -> list[tuple[str, dict[str, list[float]]]]:
    """TRL's metrics since the last log, by mode."""
    return list(trainer._metrics.items())
