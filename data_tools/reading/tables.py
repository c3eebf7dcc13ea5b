"""Reads plain text, and CSV and TSV in the dialects of Excel and pandas.

A value stays a string, `NA` too.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import re
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from data_tools.reading.cells import turns_of_cell, with_faults
from data_tools.reading.rows import LARGEST_ROW, NAME_ENCODING, Fault, Parsed

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

SEPARATOR = re.compile(r'"?sep=(.)"?\s*\Z')
"""The line with which Excel names the separator of a file."""
LARGEST_CELL = LARGEST_ROW // 4
"""Characters that a field may have; the csv module holds four bytes for each."""
DELIMITERS = ",;\t|"
QUOTES = "not CSV: {}"
QUOTES_REMEDY = 'put the field in quotes and double those inside it: "say ""hi"" to her"'


def csv_rows(stream: IO[bytes], *, delimiter: str) -> Iterator[Parsed]:
    """Yield the rows of a table with a header; each has its first line, since it may span some."""
    csv.field_size_limit(LARGEST_CELL)
    # surrogateescape lets a broken byte get as far as its row, which then reports it
    with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text:
        first = text.readline(LARGEST_CELL)
        named = SEPARATOR.match(first)
        above = 1 if named else 0
        if named:
            delimiter, first = named[1], text.readline(LARGEST_CELL)
        delimiter = _delimiter(first, delimiter)
        lines = itertools.chain([first], _lines(text))
        yield from _table(csv.reader(lines, delimiter=delimiter, strict=True), above)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Yield the lines of a text.

    Raises:
        csv.Error: If one is too long for the memory.
    """
    for line in iter(functools.partial(text.readline, LARGEST_CELL), ""):
        if len(line) == LARGEST_CELL and not line.endswith("\n"):
            raise csv.Error("field larger than the memory allows")
        yield line


def text_rows(stream: IO[bytes]) -> Iterator[Parsed]:
    """Yield each line of a text as a row with the field `text`; blank lines are no rows."""
    number = 0
    with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="\n") as text:
        while line := text.readline(LARGEST_ROW):
            number += 1
            if len(line) == LARGEST_ROW:
                yield number, Fault(f"a line of more than {LARGEST_ROW >> 20} MiB")
                return
            line = line.removesuffix("\n").removesuffix("\r")
            if line.strip():
                yield number, _bytes_fault(line) or {"text": line}


def _delimiter(header: str, expected: str) -> str:
    """Return the separator of a header; programs and countries differ in it, names do not."""
    if expected in header:
        return expected
    return max(DELIMITERS, key=lambda one: (header.count(one), one == expected))


def _table(records: CsvReader, above: int) -> Iterator[Parsed]:
    """Yield records as rows; the first record is the header, `above` it are other lines."""
    header: list[str] | None = None
    while True:
        line = records.line_num + 1 + above
        try:
            record = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _unreadable(error)
            # without its header a table has no rows
            if header is None or "field larger" in str(error):
                return
            continue
        if header is None:
            header = [name.strip() for name in record]
            if all(name[:1].isupper() or not name for name in header):  # Prompt, CHOSEN
                header = [name.lower() for name in header]
            while len(header) > 1 and not header[-1]:  # Excel writes empty columns at the end
                header.pop()
            if fault := _header_fault(header):
                yield line, fault
                return
        elif any(record):
            yield line, _record(header, record)


def _unreadable(error: csv.Error) -> Fault:
    if "field larger" in str(error):
        return Fault(f"a field of more than {LARGEST_CELL >> 20} MiB", "is a quote missing?")
    if "expected after" in str(error):
        return Fault(QUOTES.format(error), QUOTES_REMEDY)
    return Fault(QUOTES.format(error), "a quote may be missing")


def _header_fault(header: list[str]) -> Fault | None:
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        return Fault(f"the column {repeated[0]!r} appears twice in the header", "rename one")
    return _bytes_fault("".join(header))


def _record(header: list[str], record: list[str]) -> dict[str, Any] | Fault:
    while len(record) > len(header) and not record[-1]:
        record.pop()
    if len(record) != len(header):
        return Fault(f"{len(record)} fields, the header has {len(header)}", "quote the commas")
    if fault := _bytes_fault("".join(record)):
        return fault
    row: dict[str, Any] = dict(zip(header, record, strict=True))
    # the numbers of the rows, which pandas writes under an empty name
    if row.get("", "0").isdecimal():
        row.pop("", None)
    for name, cell in row.items():
        if cell[:1] in "[{a" and (turns := turns_of_cell(cell)) is not None:
            row[name] = turns
    return with_faults(row)


def _bytes_fault(text: str) -> Fault | None:
    """Return a Fault for what a text file must not contain: bytes that are not UTF-8, and NUL."""
    if "\0" in text:
        return Fault("a NUL byte", "the file is damaged or not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        return Fault(f"not UTF-8: byte 0x{byte:02x}", NAME_ENCODING)
    return None
