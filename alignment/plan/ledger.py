"""Counts the bytes that exist while a model runs on tensors that have a shape and no storage.

In torch's FakeTensorMode every operation of the real modules happens except the arithmetic, and
autograd keeps exactly what it would keep. A ledger sees each tensor come and go, so it reads the
peak from the code that will train, whatever the architecture; nothing is allocated.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(slots=True)
class Moment:
    """The fullest moment of a segment, in bytes: everything that existed, and its gradients."""

    live: int = 0
    gradients: int = 0


class Ledger(TorchDispatchMode):
    """Counts bytes while it is entered; ``mark`` begins a segment that has a peak of its own.

    It does not see what a kernel allocates inside itself, which is little next to a layer.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.gradients = 0
        self.segments: dict[str, Moment] = {}
        self._known: set[int] = set()
        self._counted: set[int] = set()
        self._now = Moment()

    def mark(self, name: str) -> None:
        """Begin a segment, or continue the one of that name."""
        self._now = self.segments.setdefault(name, Moment())
        self._note()

    def leave_out(self, model: nn.Module) -> None:
        """Do not count what a model holds; count its gradients, and also apart from the rest."""
        for x in (*model.parameters(), *model.buffers()):
            self._known.add(id(x.untyped_storage()))
        for parameter in model.parameters():
            if parameter.requires_grad:
                hook: Any = parameter.register_post_accumulate_grad_hook
                hook(self._count_gradient)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count the storages that it made.

        A mask has no values here, so it picks everything: that is the fullest batch.
        """
        if func is torch.ops.aten.index.Tensor and _is_mask(args[1]):
            out = args[0].flatten(0, args[1][0].dim() - 1).clone()
        else:
            out = func(*args, **(kwargs or {}))
        for x in _tensors(out):
            self._add(x)
        return out

    def _add(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key = id(storage)  # torch keeps one object for each storage as long as a tensor uses it
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        weakref.finalize(storage, self._drop, key, size).atexit = False
        self._note()

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def _count_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None and id(parameter) not in self._counted:
            self._counted.add(id(parameter))
            self.gradients += parameter.grad.untyped_storage().nbytes()

    def _note(self) -> None:
        if self.live > self._now.live:
            self._now.live, self._now.gradients = self.live, self.gradients


def _tensors(out: Any) -> Iterator[Tensor]:
    """The tensors that an operation returns: one, or a list that may hold lists."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, list | tuple):
        for part in out:
            yield from _tensors(part)


def _is_mask(indices: Any) -> bool:
    return len(indices) == 1 and indices[0] is not None and indices[0].dtype == torch.bool


@contextmanager
def marked_layers(ledger: Ledger, layers: nn.ModuleList, phase: str) -> Iterator[None]:
    """Give the first and the last layer, and what is before and after them, their own segments.

    Every layer adds the same, so the layers in between are on the line between the two, and the
    segments of two depths give those of any depth.
    """
    last = len(layers) - 1
    handles = []

    def enter(index: int) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            ledger.mark(f"{phase}: {_name(index, last)}")

        return hook

    def leave(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if index == last:
                ledger.mark(f"{phase}: after the layers")
            if hidden.requires_grad:
                name = f"{phase}: {_name(index, last)}, backward"
                hidden.register_hook(lambda grad: ledger.mark(name))

        return hook

    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(enter(index)))
        handles.append(layer.register_forward_hook(leave(index)))
    ledger.mark(f"{phase}: before the layers")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _name(index: int, last: int) -> str:
    return "last layer" if index == last else "first layer" if index == 0 else "middle layers"
