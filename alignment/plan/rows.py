"""How long the rows of a stage are, from a sample of them prepared as for its trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.data.sample import can_sample, sample_stage

if TYPE_CHECKING:
    from alignment.data.rows import Start
    from alignment.registry import Stage

_SAMPLE = 2000
#: Tokens that are assumed if nothing says how long rows are, and of a prompt among them.
_UNKNOWN, _UNKNOWN_PROMPT = 1024, 512


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the rows of a stage; of a pair, those of its longer side.

    Attributes:
        rows: Of all training data; None: unknown.
        longest: Of a sample.
        mean: Of a sample.
        prompt: The longest prompt, if the stage samples.
        source: How this is known.
        start: What a later stage reads its rows with; None: unknown.
    """

    rows: int | None
    longest: int
    mean: float
    prompt: int
    source: str
    start: Start | None


def measure_rows(stage: Stage, values: Mapping[str, Any], start: Start | None) -> Lengths:
    """Measure a sample of the training rows; if it cannot be read, assume full rows.

    Args:
        stage: The stage.
        values: Its settings.
        start: The tokenizer and sizes of its model; None: it has no tokenizer.

    Raises:
        DataError: A row cannot be used.
    """
    if not can_sample(values):
        return _assume(stage, values, start, "the data is not there to read")
    if start is None:
        return _assume(stage, values, start, "no tokenizer")
    sample = sample_stage(stage, values, start, _SAMPLE)
    if not sample.lengths:
        return _assume(stage, values, sample.start, "no row of the sample fits")
    longest = max(sample.lengths)
    return Lengths(
        rows=sample.rows,
        longest=longest,
        mean=sum(sample.lengths) / len(sample.lengths),
        prompt=longest if stage.samples else 0,
        source=f"the longest of {sample.read:,} rows" + ", a sample" * (sample.read >= _SAMPLE),
        start=sample.start,
    )


def _assume(stage: Stage, values: Mapping[str, Any], start: Start | None, why: str) -> Lengths:
    length = values.get("max_length") or _UNKNOWN
    prompt = _UNKNOWN_PROMPT if stage.samples else 0
    return Lengths(None, length, float(length), prompt, f"full rows: {why}", start)
