"""Which rows of the training data an optimizer step is made of.

Samplers are seeded by epoch, so the rows of a step can be drawn again afterwards; nothing is
recorded while training goes well.
"""

from itertools import islice
from typing import Any

from accelerate.data_loader import (  # type: ignore[import-untyped]
    BatchSamplerShard,
    SeedableRandomSampler,
)
from torch.utils.data import SequentialSampler

from alignment.ppo.sampler import EpochSampler

_REPEATABLE = (SeedableRandomSampler, SequentialSampler, EpochSampler)
#: More of them help nobody in an error message.
_NAMED = 32


def rows_of_step(loader: Any, *, step: int, accumulation: int) -> list[int] | None:
    """The rows, from 1, that all processes together use in the optimizer step after ``step``.

    Args:
        loader: The training loader, as Trainer gives it to callbacks.
        step: Optimizer steps made before.
        accumulation: Batches of a process in a step.

    Returns:
        The rows in ascending order; None if the order cannot be drawn again (a stream of rows, or
        rows grouped by length).
    """
    shard = loader.batch_sampler
    batches = shard.batch_sampler if isinstance(shard, BatchSamplerShard) else shard
    if batches is None or not isinstance(batches.sampler, _REPEATABLE):
        return None
    processes = shard.num_processes if isinstance(shard, BatchSamplerShard) else 1
    epoch, place = divmod(step, max(1, -(-len(loader) // accumulation)))
    if isinstance(batches.sampler, SeedableRandomSampler):
        batches.sampler.set_epoch(epoch)
    start, width = place * accumulation * processes, accumulation * processes
    return sorted({row + 1 for batch in islice(batches, start, start + width) for row in batch})


def name_rows(rows: list[int] | None, *, unit: str) -> str:
    """Rows in words, for the end of a sentence; empty if they are not known."""
    if not rows:
        return ""
    named = ", ".join(map(str, rows[:_NAMED]))
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f", in the batch of {unit} {named}{more}"
