"""What optimizers keep of each parameter, in bytes, and what they need for a moment at a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Parameter(Protocol):
    """What is asked of a parameter: its shape, its size and the bytes of one number."""

    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102

    def numel(self) -> int: ...  # noqa: D102

    def element_size(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that stay between steps, and those that come on top during a step."""

    states: int
    moment: int = 0


#: bitsandbytes quantizes states of 4096 numbers and more, with a float32 scale for each 256.
_EIGHT_BIT = 1 + 4 / 256
_SMALL = 4096


def _adamw(parameters: Sequence[Parameter]) -> Need:
    """Two moments, in the dtype of the weights; the fused kernel takes nothing beside them."""
    return Need(sum(2 * p.numel() * p.element_size() for p in parameters))


def _adamw_foreach(parameters: Sequence[Parameter]) -> Need:
    """The unfused one writes the root of the second moment of all parameters at once."""
    size = sum(p.numel() * p.element_size() for p in parameters)
    return Need(2 * size, size)


def _eight_bit(states: int) -> Callable[[Sequence[Parameter]], Need]:
    def need(parameters: Sequence[Parameter]) -> Need:
        big = sum(p.numel() for p in parameters if p.numel() >= _SMALL)
        small = sum(p.numel() for p in parameters if p.numel() < _SMALL)
        return Need(int(states * (big * _EIGHT_BIT + small * 4)))

    return need


def _float32(states: int) -> Callable[[Sequence[Parameter]], Need]:
    def need(parameters: Sequence[Parameter]) -> Need:
        return Need(states * 4 * sum(p.numel() for p in parameters))

    return need


def _adafactor(parameters: Sequence[Parameter]) -> Need:
    """A row and a column of each matrix; the update of one parameter in float32, thrice."""
    states = 0
    for p in parameters:
        *outer, last = p.shape if len(p.shape) else (1,)
        rows = p.numel() // max(last, 1)
        factored = rows + p.numel() // max(outer[-1], 1) if outer else p.numel()
        states += 4 * factored
    return Need(states, 12 * max((p.numel() for p in parameters), default=0))


def _none(parameters: Sequence[Parameter]) -> Need:
    return Need(0)


def _one(parameters: Sequence[Parameter]) -> Need:
    return Need(sum(p.numel() * p.element_size() for p in parameters))


_KNOWN: dict[str, Callable[[Sequence[Parameter]], Need]] = {
    "adamw_torch_fused": _adamw,
    "adamw_torch": _adamw_foreach,
    "adamw_hf": _adamw_foreach,
    "adamw_8bit": _eight_bit(2),
    "adamw_bnb_8bit": _eight_bit(2),
    "paged_adamw_8bit": _eight_bit(2),
    "paged_adamw": _float32(2),
    "paged_adamw_32bit": _float32(2),
    "lion_32bit": _float32(1),
    "paged_lion_32bit": _float32(1),
    "lion_8bit": _eight_bit(1),
    "paged_lion_8bit": _eight_bit(1),
    "adafactor": _adafactor,
    "sgd": _none,
    "adagrad": _one,
    "rmsprop": _one,
    "rmsprop_bnb_32bit": _float32(1),
    "rmsprop_bnb_8bit": _eight_bit(1),
}


def optimizer_need(name: str, parameters: Sequence[Parameter]) -> Need:
    """What the optimizer of the key `optim` takes for these parameters; unknown ones as AdamW."""
    return _KNOWN.get(name, _adamw_foreach)(parameters)
