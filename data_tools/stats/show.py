"""A row as the model sees it: its tokens, which of them carry loss, where it is cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alignment.errors import DataError
from data_tools.checks.records import record_findings
from data_tools.formats import (
    Columns,
    Example,
    Pairing,
    Record,
    Unusable,
    examples,
    located,
    pairs_of,
    plain,
    row_error,
)

if TYPE_CHECKING:
    from data_tools.rendering import Renderer, Tokens


class Token(NamedTuple):
    """One token: its text, whether it carries loss, whether max_length leaves it in."""

    text: str
    loss: bool
    kept: bool


class Side(NamedTuple):
    """One sequence the model is given."""

    name: str
    tokens: list[Token]


def example_at(
    path: Path,
    number: int,
    *,
    format: str | None = None,
    encoding: str | None = None,
    columns: Columns | None = None,
) -> Example:
    """The row with this number.

    Raises:
        DataError: If the file has fewer rows, or the row cannot be used.
    """
    found = (
        examples(file, format=format, encoding=encoding, columns=its, on_error=lambda _: None)
        for file, its in located(path, columns)
    )
    for example in itertools.chain.from_iterable(found):
        if example.row.number == number:
            if isinstance(example.record, Unusable):
                why = example.record
                raise row_error(example.row, why)
            return example
    raise DataError(
        f"{path}: row {number} cannot be read or is not there", "see `align data validate`"
    )


def sides(record: Record, renderer: Renderer, max_length: int) -> list[Side]:
    """Every sequence of a record: both sides of a pair, else one.

    Raises:
        Unusable: If the chat template refuses the row.
    """
    if record.kind == "ranked":
        pairs, _ = pairs_of(record, Pairing())
        record = pairs[0] if pairs else record
    spoken = renderer.sequences(record)
    found = renderer.encode(list(spoken.values()))
    return [
        Side(name, list(shown(one.text, tokens, max_length)))
        for (name, one), tokens in zip(spoken.items(), found, strict=True)
    ]


def shown(text: str, tokens: Tokens, max_length: int) -> Iterator[Token]:
    """The tokens of a sequence with their text.

    A character may take several tokens; its text is shown at the first of them.
    """
    loss, done = tokens.mask(), 0
    places = zip(tokens.place.starts.tolist(), tokens.place.ends.tolist(), strict=True)
    for i, (start, end) in enumerate(places):
        piece = text[max(start, done) : end]
        done = max(done, end)
        yield Token(piece, loss[i], i < max_length)


def plain_parts(record: Record) -> list[tuple[str, str]]:
    """The parts of a record as text, where no tokenizer is named."""
    named = [
        ("prompt", record.prompt),
        ("chosen", record.chosen),
        ("rejected", record.rejected),
        ("completion", record.completion),
        ("messages", record.messages or ""),
        ("text", record.text),
        *((f"answer {i}", answer) for i, answer in enumerate(record.answers, start=1)),
    ]
    return [(name, plain(value)) for name, value in named if value]


def flaws(record: Record) -> list[str]:
    """The codes of what is wrong with a record by itself."""
    return sorted({finding.code for finding in record_findings(record)})
