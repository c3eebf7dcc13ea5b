"""A row and where it stands; what is wrong with it, so that a reader can point at it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from alignment.errors import DataError

Parsed: TypeAlias = tuple[int | None, Any]
"""A line, where one is known, and the row or its Fault."""
OnError: TypeAlias = Callable[[DataError], None]
"""Receives the error of a row that cannot be used, so that reading can go on."""
Watch: TypeAlias = Callable[[memoryview], None]
"""Receives the bytes of a file as they are read."""


@dataclass(slots=True)  # made once a row: 0.17 us, frozen or a named tuple more than twice that
class Row:
    """One row of a source and where it is there.

    Attributes:
        source: The file, as it was named.
        number: Which row of the file it is, from 1.
        line: The line it starts on, for files made of lines.
        data: The row itself.
    """

    source: str
    number: int
    line: int | None
    data: dict[str, Any]

    @property
    def where(self) -> str:
        """`file:line` for files made of lines, else `file: row N`."""
        return place(self.source, self.number, self.line)


class Fault(NamedTuple):
    """What a reader yields in place of a row that it cannot read."""

    reason: str
    remedy: str = ""
    column: int | None = None
    code: str = "malformed"


class RowError(DataError):
    """A row that cannot be used, with its place kept apart for reports.

    Attributes:
        source: The file, as it was named.
        row: Its number, from 1.
        code: A short stable word for the reason, counted in summaries.
        reason: The sentence without the place.
    """

    def __init__(self, where: str, fault: Fault, *, source: str, row: int) -> None:
        super().__init__(f"{where}: {fault.reason}", fault.remedy)
        self.source, self.row = source, row
        self.code, self.reason = fault.code, fault.reason

    @classmethod
    def of(cls, row: Row, fault: Fault) -> "RowError":
        """The error for a row that was read but cannot be used."""
        return cls(row.where, fault, source=row.source, row=row.number)


def place(source: str, number: int, line: int | None, column: int | None = None) -> str:
    """Name a row the way editors and `sed -n` understand it."""
    if line is None:
        return f"{source}: row {number}"
    return f"{source}:{line}:{column}" if column else f"{source}:{line}"
