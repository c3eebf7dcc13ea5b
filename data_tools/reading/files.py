"""Streams rows from JSON arrays, JSON lines, CSV, TSV and Parquet, plain or compressed.

The first bytes of a file decide what it is; the name counts only for CSV and TSV, which have no
bytes of their own.
"""

import gzip
import io
import itertools
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import zstandard

from alignment.errors import DataError
from data_tools.reading.hub import hub_rows, hub_splits, is_hub_name
from data_tools.reading.json_rows import Batch, array_batches, line_batches
from data_tools.reading.rows import Fault, OnError, Row, RowError, Watch, place
from data_tools.reading.tables import csv_rows, parquet_rows

FileKind: TypeAlias = Literal["array", "lines", "csv", "tsv", "parquet"]

KIND_NAMES: dict[FileKind, str] = {
    "array": "JSON array",
    "lines": "JSON lines",
    "csv": "CSV",
    "tsv": "TSV",
    "parquet": "Parquet",
}
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
BUFFER = 1 << 16
SPLIT = re.compile(r"(?:^|[-_.:])(train|test|validation|valid|dev|eval)(?:[-_.]|$)", re.IGNORECASE)
NO_DATA = (
    (re.compile(rb"version https://git-lfs"), "a git-lfs pointer", "run `git lfs pull` first"),
    (re.compile(rb"(?i)<(!doctype|html|\?xml)"), "a web page", "download the file itself"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16 text", "save it as UTF-8"),
    (re.compile(rb"PK\x03\x04"), "a zip archive", "unpack it first"),
)


def read_rows(
    path: str | Path, *, on_error: OnError | None = None, watch: Watch | None = None
) -> Iterator[Row]:
    """Stream the rows of a file, or of all files of a folder in the order of their names.

    See `read_batches` for arguments and errors.
    """
    return itertools.chain.from_iterable(read_batches(path, on_error=on_error, watch=watch))


def read_batches(
    path: str | Path, *, on_error: OnError | None = None, watch: Watch | None = None
) -> Iterator[list[Row]]:
    """Stream rows in the batches in which they are parsed; a bad row ends a batch.

    With `on_error` a single bad row is skipped. A file that breaks off raises all the same, since
    the number of rows after the break is unknown.

    Args:
        path: A file, a folder whose files are all of one kind, or a hub name.
        on_error: Called with the error of each bad row; without it the first one raises.
        watch: Called with the bytes of the file as they are read, for progress and digests.

    Raises:
        DataError: If a row is bad and `on_error` is not given, or the file cannot be read.
    """
    for file in data_files(path):
        if is_hub_name(file):
            yield from ([row] for row in hub_rows(str(file)))
        else:
            yield from _file_rows(file, on_error, watch)


def data_files(path: str | Path) -> list[Path]:
    """Return the files of a folder in order, the splits of a hub name, or the path itself.

    Raises:
        DataError: If there is no such file, or a folder has no data files or several kinds of them.
    """
    if is_hub_name(path):
        return [Path(name) for name in hub_splits(str(path))]
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", "check the path; hub names: owner/name")
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.rglob("*") if f.is_file() and _bare_suffix(f) in SUFFIXES)
    if not files:
        raise DataError(f"{path}: no data file in this folder", f"wanted one of {_listed()}")
    # mixed folders are nearly always a mistake, such as an export next to its source
    kinds: dict[FileKind, Path] = {}
    for file in files:
        kinds.setdefault(file_kind(file), file)
    if len(kinds) > 1:
        (first, one), (second, other) = sorted(kinds.items())[:2]
        raise DataError(
            f"{path}: this folder mixes {KIND_NAMES[first]} ({one.name}) and "
            f"{KIND_NAMES[second]} ({other.name})",
            "name the files one by one, or keep one kind per folder",
        )
    return files


def split_of(file: Path) -> str:
    """Return the split in the name of a file (`train`, `test`, ...), or an empty string."""
    found = SPLIT.search(file.name.split(".parquet")[0].split(".json")[0].split(".csv")[0])
    return found[1].lower() if found else ""


def file_kind(path: Path) -> FileKind:
    """Find out what kind of data a file holds by its first bytes.

    Raises:
        DataError: If it is empty or not a data file; the message says what it looks like.
    """
    with open_plain(path) as stream:
        head = stream.read(4096)
    suffix = _bare_suffix(path)
    if head.startswith(PARQUET):
        return "parquet"
    # a download that went wrong often ends in .json, but holds a web page or a pointer
    for pattern, what, remedy in NO_DATA:
        if pattern.match(head.lstrip()):
            raise DataError(f"{path}:1: this is {what}, not data", remedy)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise DataError(f"{path}:1: the file is empty", "wanted at least one row")
    # a CSV file may begin with any character, also with [ or {
    if suffix in (".csv", ".tsv"):
        return "csv" if suffix == ".csv" else "tsv"
    if text.startswith(b"["):
        return "array"
    if text.startswith(b"{") or suffix in (".jsonl", ".ndjson", ".json"):
        return "lines"
    raise DataError(
        f"{path}:1:1: wanted rows, found {text[:20].decode('utf-8', 'replace')!r}",
        f"data files end in one of {_listed()}, or begin with [ or {{",
    )


def open_plain(path: Path, watch: Watch | None = None) -> IO[bytes]:
    """Open a file for reading bytes; gzip and zstandard are unpacked, whatever the name says."""
    raw = _Watched(path, watch) if watch else io.FileIO(path)
    stream: IO[bytes] = io.BufferedReader(raw, BUFFER)
    magic = stream.read(4)
    stream.seek(0)
    if magic.startswith(GZIP):
        return io.BufferedReader(_Gunzipped(stream))
    if magic == ZSTD:
        plain = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        return io.BufferedReader(plain)
    return stream


def _file_rows(path: Path, on_error: OnError | None, watch: Watch | None) -> Iterator[list[Row]]:
    """Yield the rows of one file; errors of its compression become DataError."""
    source = str(path)
    try:
        kind = file_kind(path)
        with open_plain(path, watch) as stream:
            yield from numbered(_any(_parsed(kind, stream), source), kind, source, on_error)
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "fetch the file again") from error


def _any(parsed: Iterable[Batch], source: str) -> Iterator[Batch]:
    """Pass on what was parsed.

    Raises:
        DataError: If there was no row at all.
    """
    count = 0
    for batch in parsed:
        count += len(batch.values)
        yield batch
    if not count:
        raise DataError(f"{source}:1: no rows in this file", "wanted at least one")


def numbered(
    parsed: Iterable[Batch],
    kind: FileKind,
    source: str,
    on_error: OnError | None,
    *,
    start: int = 0,
) -> Iterator[list[Row]]:
    """Turn parsed values into rows with their places; a Fault raises or goes to `on_error`.

    Args:
        parsed: Batches in the order of the file.
        kind: Rows of an array have no line of their own, all others do.
        source: The name of the file.
        on_error: Called with the error of each bad row; without it the first one raises.
        start: How many rows come before the first batch.
    """
    number, lined = start, kind != "array"
    for lines, values in parsed:
        if set(map(type, values)) == {dict}:
            named = lines if lined else itertools.repeat(None)
            numbers = itertools.count(number + 1)
            # the common case, without a loop in Python
            yield list(map(Row, itertools.repeat(source), numbers, named, values))
            number += len(values)
            continue
        rows: list[Row] = []
        for line, value in zip(lines, values, strict=False):  # lines may be endless
            number += 1
            if type(value) is dict:
                rows.append(Row(source, number, line if lined else None, value))
                continue
            if rows:
                yield rows
                rows = []
            fault = value if isinstance(value, Fault) else _not_an_object(value)
            where = place(source, number, line, fault.column)
            error = RowError(where, fault, source=source, row=number)
            if on_error is None:
                raise error
            on_error(error)
        if rows:
            yield rows


def _parsed(kind: FileKind, stream: IO[bytes]) -> Iterator[Batch]:
    """Parse a stream with the reader for this kind of file."""
    if kind == "array":
        return array_batches(stream)
    if kind == "lines":
        return line_batches(stream)
    if kind == "parquet":
        return (Batch.of([parsed]) for parsed in parquet_rows(_seekable(stream)))
    delimiter = "," if kind == "csv" else "\t"
    return (Batch.of([parsed]) for parsed in csv_rows(stream, delimiter=delimiter))


class _Watched(io.FileIO):
    """A file that reports the bytes that are read from it."""

    def __init__(self, path: Path, watch: Watch) -> None:
        super().__init__(path)
        self._watch = watch

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self._watch(memoryview(buffer)[: count or 0])
        return count


class _Gunzipped(gzip.GzipFile):
    """A gzip stream that closes the file below it, which GzipFile leaves open."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(fileobj=stream)
        self._stream = stream

    def close(self) -> None:
        super().close()
        self._stream.close()


def _seekable(stream: IO[bytes]) -> IO[bytes]:
    """Return a stream that can seek, as Parquet needs: a temporary copy if it is compressed."""
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
        return stream
    copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the reader
    while block := stream.read(1 << 20):
        copy.write(block)
    copy.seek(0)
    return copy


def _not_an_object(value: object) -> Fault:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    found = names.get(type(value), "a number")
    return Fault(f"this row is {found}, wanted an object with named fields", code="row_type")


def _bare_suffix(path: Path) -> str:
    """The suffix that names the content: `.jsonl` of `a.jsonl.gz`."""
    bare = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    return bare.suffix.lower()


def _listed() -> str:
    return ", ".join(SUFFIXES) + " (or those with .gz, .zst)"
