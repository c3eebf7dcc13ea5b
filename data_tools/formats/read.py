"""Reads the rows of any source as records: finds their format, joins, adapts and checks them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from data_tools.formats.columns import passed_over, read_row, unread, whole
from data_tools.formats.detect import as_ranking, by_name, detect_each, is_ranking, unranked
from data_tools.formats.plain_text import is_blank
from data_tools.formats.record import (
    Adapter,
    Gather,
    Kind,
    Record,
    Result,
    Text,
    Unusable,
)
from data_tools.reading import (
    Fault,
    MadeRow,
    OnError,
    Row,
    RowError,
    Watch,
    data_files,
    read_batches,
    turns_of_cell,
)

if TYPE_CHECKING:
    from data_tools.formats.mapping import Columns, ReadOptions
    from data_tools.formats.sources import Located

Repair: TypeAlias = Callable[[dict[str, Any], Adapter], dict[str, Any]]


@dataclass(slots=True)
class Example:
    """A row with a record that was made of it, or why there is none; a row may give several.

    Attributes:
        row: The row and its place.
        adapter: The format of the row; None if it has none.
        record: The record; Unusable if none could be made or a part of it is empty.
        unused: Columns, and keys of turns (`messages[].key`), with text that nothing reads. Of a
            row with several records the first one has them.
        more: If the record is a prompt: why the row is no bare prompt. Who asks for prompts may
            use it all the same.
    """

    row: Row
    adapter: Adapter | None
    record: Record | Unusable
    unused: tuple[str, ...] = ()
    more: Unusable | None = None


def examples(
    path: str | Path,
    *,
    format: str | None = None,
    encoding: str | None = None,
    columns: Columns | None = None,
    on_error: OnError | None = None,
    repair: Repair | None = None,
    watch: Watch | None = None,
) -> Iterator[Example]:
    """Read the rows of a file or folder as records, in order.

    Args:
        path: A file or a folder.
        format: The name of the format of all rows; without it the format of each is detected.
        encoding: The encoding of all text files; without it that of each is detected.
        columns: Which columns hold which parts, if no format knows their names.
        on_error: Called with the error of each row that cannot be parsed; without it the first
            one raises.
        repair: Makes a repaired copy of a row before it is adapted.
        watch: Called with the bytes of the file as they are read.

    Raises:
        DataError: If a file, or without `on_error` a row, cannot be read.
        ConfigError: If there is no such format.
    """
    forced = by_name(format) if format else columns.adapter if columns else None
    files = (
        read_batches(file, encoding=encoding, on_error=on_error, watch=watch)
        for file in data_files(path)
    )
    found = (
        adapted_batches(batches, forced=forced, columns=columns, repair=repair) for batches in files
    )
    yield from _flat(_flat(found))


def sound_rows(
    files: Iterable[Located],
    watch: Watch | None,
    read: ReadOptions,
) -> Iterator[tuple[Row, Record]]:
    """Read rows with the first record of each, also if a row gives several.

    Args:
        files: The files, each with its columns.
        watch: Called with the bytes of the files as they are read.
        read: How the rows are read.

    Raises:
        DataError: If a row cannot be read or gives no record.
    """
    last: tuple[str, int] | None = None
    for one in files:
        for example in examples(one.file, **one.options(read), watch=watch):
            here = (example.row.source, example.row.number)
            if here == last:
                continue
            last = here
            yield example.row, _sound(example)


def adapted(
    rows: Iterable[Row], *, forced: Adapter | None = None, repair: Repair | None = None
) -> Iterator[Example]:
    """Adapt the rows of one file; see `adapted_batches`."""
    return _flat(adapted_batches(([row] for row in rows), forced=forced, repair=repair))


def adapted_batches(
    batches: Iterable[list[Row]],
    *,
    forced: Adapter | None = None,
    columns: Columns | None = None,
    repair: Repair | None = None,
) -> Iterator[list[Example]]:
    """Adapt the rows of one file in batches; the format is looked up once for equal keys and types.

    From the first row on whose format gathers rows, all rows that follow are of that format.
    """
    batches = iter(batches)
    for raw in batches:
        batch, adapters = _recognised(raw, forced, columns)
        at, gather = _first_gathered(adapters)
        yield _adapted(batch[:at], adapters[:at], repair, named=forced is not None)
        # rows that belong together may be in later batches: from here on all go through `gather`
        if gather:
            if columns is not None:
                columns.check_single(adapters[at])
            rows, its = gather(itertools.chain(batch[at:], _flat(batches))), [adapters[at]]
            yield from (_adapted([row], its, repair, named=True) for row in rows)
            return


def _recognised(
    batch: list[Row], forced: Adapter | None, columns: Columns | None
) -> tuple[list[Row], Sequence[Adapter | Unusable]]:
    """Return rows, renamed if asked for, with the format of each or why it has none."""
    if columns is None:
        if forced:
            return batch, [forced] * len(batch)
        found = detect_each([row.data for row in batch])
        if batch and is_ranking(batch[0].source):
            found = [as_ranking(row.data) or one for row, one in zip(batch, found, strict=True)]
        return batch, found
    rows: list[Row] = []
    adapters: list[Adapter | Unusable] = []
    for row in batch:
        try:
            data = columns.renamed(row.data)
        except Unusable as why:
            rows.append(row)
            adapters.append(why)
            continue
        rows.append(MadeRow(row.source, row.number, row.start, data, row.originals))
        adapters.append(forced or detect_each([data])[0])
    return rows, adapters


def _first_gathered(adapters: Sequence[Adapter | Unusable]) -> tuple[int, Gather | None]:
    """Return the index of the first row that is joined with those after it, and what joins them."""
    for adapter in dict.fromkeys(adapters):
        if not isinstance(adapter, Unusable) and adapter.gather:
            return adapters.index(adapter), adapter.gather
    return len(adapters), None


def _adapted(
    rows: Sequence[Row],
    adapters: Sequence[Adapter | Unusable],
    repair: Repair | None,
    *,
    named: bool,
) -> list[Example]:
    """Make an example of each record of rows; a record with an empty part is unusable."""
    made: list[Example] = []
    for row, adapter in zip(rows, adapters, strict=True):
        if isinstance(adapter, Unusable):
            made.append(Example(row, None, adapter))
            continue
        result = _result(row, adapter, repair)
        if isinstance(result, list):
            records = [one for one in result if isinstance(one, Record)]
            unused = unread(adapter, row.data, records)
            for one in result:
                made.append(_example(row, adapter, one, unused, named))
                unused = ()
        else:
            unused = unread(adapter, row.data, [result] if isinstance(result, Record) else [])
            made.append(_example(row, adapter, result, unused, named))
    return made


def _example(
    row: Row, adapter: Adapter, found: Record | Unusable, unused: tuple[str, ...], named: bool
) -> Example:
    """Make an example of what was read, or say why the row is something else than that."""
    if isinstance(found, Unusable):
        return Example(
            row, adapter, found if named else whole(found, unused, row.data, adapter.name)
        )
    if unused and not named:
        example = Example(
            row, adapter, _judged(whole(found, unused, row.data, adapter.name)), unused
        )
    else:
        example = Example(row, adapter, _judged(found), unused)
    if found.kind == "prompt" and adapter.name == "prompt" and not named:
        example.more = unranked(row.data) or passed_over(unused, row.data)
    return example


def _result(row: Row, adapter: Adapter, repair: Repair | None) -> Result | Unusable:
    """Read a row with its adapter, repaired if asked for."""
    data = row.data
    try:
        data = repair(data, adapter) if repair else data
        return read_row(adapter, data)
    except Unusable as error:
        return error
    except (KeyError, TypeError, IndexError, AttributeError):
        # a format that the user has named reads keys by name: whatever fails, the row is not in it
        return _not_of(row, adapter)


def _judged(record: Record | Unusable) -> Record | Unusable:
    """Return a record, or Unusable if a part of it is empty."""
    if isinstance(record, Unusable):
        return record
    names, parts = _PARTS[record.kind] if record.messages is None else _MESSAGES
    found = parts(record)
    for part in found:
        if type(part) is not str or not part[:1].isalnum():  # a letter is not blank
            break
    else:
        return record
    for name, part in zip(names, found, strict=True):
        if is_blank(part):
            return Unusable(f"empty_{name}", f"{name!r} is empty")
        if type(part) is str and turns_of_cell(part) is not None:
            return Unusable(
                "stringified_messages",
                f"{name!r} is the text of a list of messages",
                "write the list itself, without quotes around it; only tables may hold its text",
            )
    return record


def row_error(row: Row, why: Unusable) -> RowError:
    """Make the error that names the place of a row and says why it cannot be used."""
    return RowError.of(row, Fault(why.reason, why.remedy, code=why.code))


def _sound(example: Example) -> Record:
    record = example.record
    if isinstance(record, Unusable):
        convert = "leave such rows out with `align data convert --on-error drop`"
        remedy = f"{record.remedy}, or {convert}" if record.remedy else convert
        raise row_error(example.row, Unusable(record.code, record.reason, remedy))
    return record


def _not_of(row: Row, adapter: Adapter) -> Unusable:
    reason = "; ".join(adapter.lacks(row.data)) or "the values are not what this format holds"
    return Unusable("wrong_format", f"not {adapter.name!r}: {reason}", "leave --format out")


_flat = itertools.chain.from_iterable


Parts: TypeAlias = tuple[tuple[str, ...], Callable[[Record], tuple[Text, ...]]]
"""The names of the parts of a record, and a function that returns them all."""


def _parts(*names: str) -> Parts:
    get: Callable[[Record], Any] = operator.attrgetter(*names)
    if len(names) == 1:  # with one name a getter gives no tuple
        return names, lambda record: (get(record),)
    return names, get


_MESSAGES = _parts("messages")
_PARTS: dict[Kind, Parts] = {
    "text": _parts("text"),
    "sft": _parts("prompt", "completion"),
    "preference": _parts("prompt", "chosen", "rejected"),
    "unpaired": _parts("prompt", "completion"),
    "prompt": _parts("prompt"),
    "ranked": _parts("prompt"),
}
