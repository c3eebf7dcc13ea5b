"""What optimizers keep for each parameter, in bytes, and what they need in addition at a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

#: bitsandbytes quantizes states of 4096 numbers and more, with a float32 scale for each 256.
_EIGHT_BIT = 1 + 4 / 256
_SMALL = 4096


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that stay between steps, and those that are added during a step."""

    states: int
    moment: int = 0


_Rule: TypeAlias = "Callable[[Sequence[Tensor]], Need]"


def optimizer_need(name: str, parameters: Sequence[Tensor]) -> Need:
    """What the optimizer of the key `optim` takes for these parameters; unknown ones as AdamW."""
    return _RULES.get(name, _RULES["adamw_torch"])(parameters)


def _as_weights(states: int, moment: int = 0) -> _Rule:
    """States in the dtype of the weights."""

    def need(parameters: Sequence[Tensor]) -> Need:
        size = sum(p.nbytes for p in parameters)
        return Need(states * size, moment * size)

    return need


def _float32(states: int) -> _Rule:
    def need(parameters: Sequence[Tensor]) -> Need:
        return Need(states * 4 * sum(p.numel() for p in parameters))

    return need


def _eight_bit(states: int) -> _Rule:
    def need(parameters: Sequence[Tensor]) -> Need:
        big = sum(p.numel() for p in parameters if p.numel() >= _SMALL)
        small = sum(p.numel() for p in parameters if p.numel() < _SMALL)
        return Need(int(states * (big * _EIGHT_BIT + small * 4)))

    return need


def _adafactor(parameters: Sequence[Tensor]) -> Need:
    """A row and a column of each matrix; at a step three float32 copies of one parameter."""
    states = 0
    for p in parameters:
        *outer, last = p.shape if len(p.shape) else (1,)
        rows = p.numel() // max(last, 1)
        factored = rows + p.numel() // max(outer[-1], 1) if outer else p.numel()
        states += 4 * factored
    return Need(states, 12 * max((p.numel() for p in parameters), default=0))


_RULES: dict[str, _Rule] = {
    "adamw_torch_fused": _as_weights(2),
    # not fused: it writes the root of the second moment of all parameters at once
    "adamw_torch": _as_weights(2, moment=1),
    "adamw_8bit": _eight_bit(2),
    "adamw_bnb_8bit": _eight_bit(2),
    "paged_adamw_8bit": _eight_bit(2),
    "paged_adamw_32bit": _float32(2),
    "lion_32bit": _float32(1),
    "paged_lion_32bit": _float32(1),
    "lion_8bit": _eight_bit(1),
    "paged_lion_8bit": _eight_bit(1),
    "adafactor": _adafactor,
    "sgd": _as_weights(0),
    "adagrad": _as_weights(1),
    "rmsprop": _as_weights(1),
    "rmsprop_bnb_32bit": _float32(1),
    "rmsprop_bnb_8bit": _eight_bit(1),
}
