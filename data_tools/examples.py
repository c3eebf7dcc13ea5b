"""Rows of any source as records: read, told apart by format, gathered, adapted, judged sound."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from data_tools.formats import Adapter, Record, Unusable, by_name, detect
from data_tools.formats.record import Kind, Text
from data_tools.reading import OnError, Watch, data_files, read_rows
from data_tools.rows import Row
from data_tools.text import is_blank

Repair: TypeAlias = Callable[[dict[str, Any], Adapter], dict[str, Any]]


class Example(NamedTuple):
    """A row and what became of it: a sound record, or why there is none.

    A row may give several. `adapter` is None where no format was found.
    """

    row: Row
    adapter: Adapter | None
    record: Record | Unusable


def examples(
    path: str | Path,
    *,
    format: str | None = None,
    on_error: OnError | None = None,
    repair: Repair | None = None,
    watch: Watch | None = None,
) -> Iterator[Example]:
    """Every row of a file or folder as records, in order.

    Args:
        path: A file or a folder.
        format: The name of the format all rows are in; without it each row's is detected.
        on_error: Told of rows that cannot even be read; without it the first one raises.
        repair: Makes a mended copy of a row before it is adapted.
        watch: Told how many bytes were read, for progress.

    Raises:
        DataError: Where a row or a file cannot be read.
        ConfigError: Where there is no such format.
    """
    forced = by_name(format) if format else None
    for file in data_files(path):
        yield from adapted(
            read_rows(file, on_error=on_error, watch=watch), forced=forced, repair=repair
        )


def adapted(
    rows: Iterable[Row], *, forced: Adapter | None = None, repair: Repair | None = None
) -> Iterator[Example]:
    """Adapt rows of one file; a format that gathers rows is decided by the first of them."""
    rows = iter(rows)
    for row in rows:
        try:
            adapter = forced or detect(row.data)
        except Unusable as unknown:
            yield Example(row, None, unknown)
            continue
        joined = adapter.gather(itertools.chain([row], rows)) if adapter.gather else (row,)
        for one in joined:
            made = _made(one, adapter, repair)
            if type(made) is list:
                yield from [Example(one, adapter, record) for record in made]
            else:
                yield _example_of((one, adapter, made))  # type: ignore[arg-type]


def unsound(record: Record) -> Unusable | None:
    """What keeps a record from being an example: an empty part."""
    parts = _PARTS[record.kind] if record.messages is None else _MESSAGES
    for name, part in parts:
        if is_blank(part(record)):
            return Unusable(f"empty_{name}", f"{name!r} is empty")
    return None


def _made(
    row: Row, adapter: Adapter, repair: Repair | None
) -> Record | Unusable | list[Record | Unusable]:
    """What an adapter makes of a row, each record looked through."""
    try:
        result = adapter.read(repair(row.data, adapter) if repair else row.data)
    except Unusable as error:
        return error
    except (KeyError, TypeError, IndexError, AttributeError):
        # a forced format reads keys by name; whatever it stumbles on, the row is not of it
        return _not_of(row, adapter)
    if isinstance(result, Record):
        return unsound(result) or result
    return [one if isinstance(one, Unusable) else unsound(one) or one for one in result]


def _not_of(row: Row, adapter: Adapter) -> Unusable:
    reason = "; ".join(adapter.lacks(row.data)) or "the values are not what this format holds"
    return Unusable("wrong_format", f"not {adapter.name!r}: {reason}", "leave --format out")


_example_of: Callable[[tuple[Row, Adapter, Record | Unusable]], Example] = functools.partial(
    tuple.__new__, Example
)
"""An example of its fields, in a third of the time that `Example(...)` takes."""


Part: TypeAlias = tuple[str, Callable[[Record], Text]]


def _parts(*names: str) -> tuple[Part, ...]:
    return tuple((name, operator.attrgetter(name)) for name in names)


_MESSAGES = _parts("messages")
_PARTS: dict[Kind, tuple[Part, ...]] = {
    "text": _parts("text"),
    "sft": _parts("prompt", "completion"),
    "preference": _parts("prompt", "chosen", "rejected"),
    "unpaired": _parts("prompt", "completion"),
    "prompt": _parts("prompt"),
    "ranked": _parts("prompt"),
}
