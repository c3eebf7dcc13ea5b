"""Use smaller batches and more of them per step, so that the effective batch stays the same."""

from typing import Any

#: The keys that change together.
_KEYS = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")


def next_smaller(size: int) -> int | None:
    """The largest divisor of a batch size that is at most half of it; None if there is none."""
    return next((less for less in range(size // 2, 0, -1) if size % less == 0), None)


def keep_effective_batch(args: Any, size: int) -> None:
    """Use ``size`` rows at a time, and accumulate as many times more of them before each step.

    A rollout keeps its size too: ``steps_per_generation`` grows by the same factor.

    Args:
        args: The trainer's settings, changed in place.
        size: A divisor of their ``per_device_train_batch_size``.
    """
    factor, rest = divmod(args.per_device_train_batch_size, size)
    if rest:
        raise ValueError(f"{size} does not divide {args.per_device_train_batch_size}")
    args.per_device_train_batch_size = size
    args.gradient_accumulation_steps *= factor
    if "steps_per_generation" in vars(args):
        args.steps_per_generation *= factor


def sizes_of(args: Any) -> dict[str, int]:
    """The sizes of a batch, by key; only stages that sample have a `steps_per_generation`."""
    return {key: vars(args)[key] for key in _KEYS if key in vars(args)}


def sizes_after(args: Any, size: int) -> dict[str, int]:
    """The sizes that `keep_effective_batch` would leave."""
    factor = args.per_device_train_batch_size // size
    sizes = {key: value * factor for key, value in sizes_of(args).items()}
    return {**sizes, "per_device_train_batch_size": size}


def use_found(args: Any, found: dict[str, int] | None) -> None:
    """Use the size that an earlier part of this run found, if the settings still allow it."""
    size = found["per_device_train_batch_size"] if found else 0
    if size and args.per_device_train_batch_size % size == 0:
        keep_effective_batch(args, size)
