"""Rows with their place in a source, and the errors that name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from alignment.errors import DataError

Parsed: TypeAlias = tuple[int | None, Any]
"""The line number if it is known, and the row or its Fault."""
OnError: TypeAlias = Callable[[DataError], None]
"""Is called with the error of a row that cannot be used, so that reading can go on."""
Watch: TypeAlias = Callable[[memoryview], None]
"""Is called with the bytes of a file as they are read."""
NAME_ENCODING = "if the whole file has another encoding, name it: --encoding gb18030"
LARGEST_ROW = 1 << 28
"""Bytes that a row may have: a few megabytes of packed zeros would fill any memory."""


class TooLarge(OSError):
    """A file of which a part would fill the memory when it is unpacked."""


class Lines(Protocol):
    """Finds the line of each row of a batch, when one of them is asked for."""

    def of(self, number: int) -> int | None:
        """Return the line on which the row with this number starts."""


# One is made for each row: frozen, or as a named tuple, that takes more than twice as long.
@dataclass(slots=True)
class Row:
    """One row and its place in a source.

    Attributes:
        source: The name of the file, as the user wrote it.
        number: The number of the row in the file, from 1.
        start: The line on which it starts, or what finds it; None for Parquet and Arrow.
        data: The row itself.
    """

    source: str
    number: int
    start: int | Lines | None
    data: dict[str, Any]

    @property
    def line(self) -> int | None:
        """The line on which it starts; None for Parquet and Arrow."""
        start = self.start
        return start if start is None or isinstance(start, int) else start.of(self.number)

    @property
    def where(self) -> str:
        """The place as messages show it: `file:line`, or `file: row N` without a line."""
        return place(self.source, self.number, self.line)

    @property
    def originals(self) -> list[dict[str, Any]]:
        """The rows of the file that this one was made of: it alone, unless it is a MadeRow."""
        return [self.data]

    def without_data(self) -> Row:
        """Return the row's place alone, for what is remembered of all rows."""
        return Row(self.source, self.number, self.line, {})


@dataclass(slots=True)
class MadeRow(Row):
    """A row with renamed columns, or of several rows of a file that belong together.

    Attributes:
        made_of: Those rows, as the file has them.
    """

    made_of: list[dict[str, Any]]

    @property
    def originals(self) -> list[dict[str, Any]]:
        """The rows of the file that this one was made of."""
        return self.made_of


class Fault(NamedTuple):
    """What a reader yields instead of a row that it cannot read."""

    reason: str
    remedy: str = ""
    column: int | None = None
    code: str = "malformed"


class RowError(DataError):
    """A row that cannot be used; reports need its place apart from the message.

    Args:
        source: The name of the file, as the user wrote it.
        row: The number of the row, from 1.
        line: The line on which it starts, or on which its error is; None if it has none.
        fault: What is wrong.

    Attributes:
        column: The column of the error, from 1; None if it is not known.
        code: A short stable word for the reason, by which summaries count.
        reason: The message without the place.
    """

    def __init__(self, source: str, row: int, line: int | None, fault: Fault) -> None:
        where = place(source, row, line, fault.column)
        super().__init__(f"{where}: {fault.reason}", fault.remedy)
        self.source, self.row, self.line, self.column = source, row, line, fault.column
        self.code, self.reason = fault.code, fault.reason

    def as_json(self) -> dict[str, Any]:
        """Return place, code and reason for lists of rows that cannot be used."""
        return {
            "source": self.source,
            "row": self.row,
            "line": self.line,
            "column": self.column,
            "code": self.code,
            "reason": self.reason,
        }

    @classmethod
    def of(cls, row: Row, fault: Fault) -> RowError:
        """Make the error for a row that was read but cannot be used."""
        return cls(row.source, row.number, row.line, fault)


def place(source: str, number: int, line: int | None, column: int | None = None) -> str:
    """Name a row in the way that editors and `sed -n` understand."""
    if line is None:
        return f"{source}: row {number}"
    return f"{source}:{line}:{column}" if column else f"{source}:{line}"
