"""The first rows of a stage as its trainer would get them, for an estimate of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data.columns import LEFT_OUT
from alignment.data.prepare import sample_source
from alignment.data.rows import Start, request_of
from alignment.data.sources import data_paths, drawn, files_of, is_there
from alignment.models.chat_template import tokenizer_changes
from data_tools.reading import read_rows

if TYPE_CHECKING:
    from alignment.registry import Stage

#: Files whose lines are rows can be counted without being parsed.
_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of the training rows.

    Attributes:
        lengths: Tokens of the longest side of each row that the trainer keeps, after the cut.
        read: Usable rows that were read.
        rows: Rows that the trainer gets of all data, estimated from the sample.
        start: What a stage that starts from this one's result begins with.
    """

    lengths: list[int]
    read: int
    rows: int
    start: Start


def can_sample(values: Mapping[str, Any]) -> bool:
    """Whether there is training data, on this machine."""
    return bool(values["train_data"]) and all(map(is_there, data_paths(values)["train"]))


def sample_stage(stage: Stage, values: Mapping[str, Any], start: Start, count: int) -> Sample:
    """Read at most `count` training rows, the first ones of each source.

    Raises:
        ConfigError: no data is named, or the tokenizer cannot be used.
        DataError: a file or row cannot be used.
    """
    request = request_of(stage, values, start, tokenizer_changes(stage, values, start.tokenizer))
    limits, paths = request.limits, data_paths(values)["train"]
    share = max(1, count // len(paths))
    found, sizes = [], []
    for path in paths:
        rows = sample_source(path, request, share)
        found += rows
        sizes.append(len(rows) if len(rows) < share else _count(path, request.encoding))
    total = drawn(values, sizes)
    kept = [one.length for one in found if not one.fate & LEFT_OUT]
    used = min(int(total * (1 - values["eval_fraction"])), values["max_rows"] or total)
    return Sample(
        [limits.tokens or 0 if limits.is_over(length) else length for length in kept],
        len(found),
        round(used * len(kept) / len(found)),
        replace(start, tokenizer=request.renderer.tokenizer, vocabulary=limits.vocabulary),
    )


def _count(path: str, encoding: str | None) -> int:
    """Rows of a source, unusable ones too: the lines of its files, or a reading of them."""
    return sum(
        _lines(file)
        if file.suffix in _LINES
        else sum(1 for _ in read_rows(file, encoding=encoding))
        for file in files_of(path)
    )


def _lines(file: Path) -> int:
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(2**20), b""))
