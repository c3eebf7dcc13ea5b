"""Reads CSV, TSV and Parquet. A value of CSV stays a string, `NA` and `null` too."""

import csv
import io
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from data_tools.reading.rows import Fault, Parsed

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

BATCH = 512


def csv_rows(stream: IO[bytes], *, delimiter: str) -> Iterator[Parsed]:
    """Yield the rows of a table with a header; each has its first line, since it may span some."""
    csv.field_size_limit(sys.maxsize)
    # surrogateescape lets a broken byte get as far as its row, which then reports it
    with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _table(csv.reader(text, delimiter=delimiter, strict=True))


def parquet_rows(stream: IO[bytes]) -> Iterator[Parsed]:
    """Yield the rows of a Parquet file, a batch at a time."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with stream, ParquetFile(stream) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    yield None, row
    except ArrowException as error:
        raise OSError(f"not a complete Parquet file: {error}") from error


def _table(records: "CsvReader") -> Iterator[Parsed]:
    """Yield records as rows; the first record is the header."""
    header: list[str] | None = None
    line = 1
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, Fault(f"not CSV: {error}", "a quote may be missing")
            record = []
        if header is None:
            header = record
            if fault := _header_fault(header):
                yield line, fault
                return
        elif record:
            yield line, _record(header, record)
        line = records.line_num + 1


def _header_fault(header: list[str]) -> Fault | None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        return Fault(f"the column {repeated[0]!r} appears twice in the header", "rename one")
    # Excel saves CSV with semicolons in many countries
    if len(header) == 1 and ";" in header[0]:
        return Fault("the columns are separated by ';'", "save it with commas, or as TSV")
    return _bytes_fault("".join(header))


def _record(header: list[str], record: list[str]) -> dict[str, Any] | Fault:
    if len(record) != len(header):
        return Fault(f"{len(record)} fields, the header has {len(header)}", "quote the commas")
    return _bytes_fault("".join(record)) or dict(zip(header, record, strict=True))


def _bytes_fault(text: str) -> Fault | None:
    """Return a Fault for what a text file must not contain: bytes that are not UTF-8, and NUL."""
    if "\0" in text:
        return Fault("a NUL byte", "the file is damaged or not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Fault(f"not UTF-8: byte 0x{ord(text[error.start]) & 0xFF:02x}", "save it as UTF-8")
    return None
