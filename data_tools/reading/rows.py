"""Rows with their place in a source, and the errors that name it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from alignment.errors import DataError

Parsed: TypeAlias = tuple[int | None, Any]
"""The line number if it is known, and the row or its Fault."""
OnError: TypeAlias = Callable[[DataError], None]
"""Is called with the error of a row that cannot be used, so that reading can go on."""
Watch: TypeAlias = Callable[[memoryview], None]
"""Is called with the bytes of a file as they are read."""


# One is made for each row: frozen, or as a named tuple, that takes more than twice as long.
@dataclass(slots=True)
class Row:
    """One row and its place in a source.

    Attributes:
        source: The name of the file, as the user wrote it.
        number: The number of the row in the file, from 1.
        line: The line on which it starts; None for arrays and Parquet.
        data: The row itself.
    """

    source: str
    number: int
    line: int | None
    data: dict[str, Any]

    @property
    def where(self) -> str:
        """The place as messages show it: `file:line`, or `file: row N` without a line."""
        return place(self.source, self.number, self.line)


class Fault(NamedTuple):
    """What a reader yields instead of a row that it cannot read."""

    reason: str
    remedy: str = ""
    column: int | None = None
    code: str = "malformed"


class RowError(DataError):
    """A row that cannot be used; reports need its place apart from the message.

    Attributes:
        source: The name of the file, as the user wrote it.
        row: The number of the row, from 1.
        code: A short stable word for the reason, by which summaries count.
        reason: The message without the place.
    """

    def __init__(self, where: str, fault: Fault, *, source: str, row: int) -> None:
        super().__init__(f"{where}: {fault.reason}", fault.remedy)
        self.source, self.row = source, row
        self.code, self.reason = fault.code, fault.reason

    @classmethod
    def of(cls, row: Row, fault: Fault) -> "RowError":
        """Make the error for a row that was read but cannot be used."""
        return cls(row.where, fault, source=row.source, row=row.number)


def place(source: str, number: int, line: int | None, column: int | None = None) -> str:
    """Name a row in the way that editors and `sed -n` understand."""
    if line is None:
        return f"{source}: row {number}"
    return f"{source}:{line}:{column}" if column else f"{source}:{line}"
