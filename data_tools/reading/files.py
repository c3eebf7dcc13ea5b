"""Streams rows from JSON, CSV, TSV, text, Parquet, Arrow and Excel, plain or compressed.

The first bytes of a file decide what it is; the name counts only for CSV, TSV and plain text, which
have no bytes of their own.
"""

import hashlib
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import orjson
import zstandard

from alignment.errors import DataError
from data_tools.reading.encodings import UTF_8, Encoding, find_encoding
from data_tools.reading.folders import SUFFIXES, bare_suffix, folder_files
from data_tools.reading.hub import hub_revision, hub_rows, hub_splits, is_hub_name
from data_tools.reading.json_rows import Batch, MemberLines, array_batches, line_batches
from data_tools.reading.opening import STDIN, open_plain, open_raw, seekable
from data_tools.reading.rows import Fault, Lines, OnError, Parsed, Row, RowError, TooLarge, Watch

FileKind: TypeAlias = Literal[
    "array", "lines", "document", "csv", "tsv", "text", "parquet", "arrow", "excel"
]

KIND_NAMES: dict[FileKind, str] = {
    "array": "JSON array",
    "lines": "JSON lines",
    "document": "JSON document",
    "csv": "CSV",
    "tsv": "TSV",
    "text": "plain text",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "excel": "Excel",
}
BY_SUFFIX: dict[str, FileKind] = {".csv": "csv", ".tsv": "tsv", ".txt": "text"}
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
UNORDERED = frozenset({"parquet", "arrow", "excel"})
"""Kinds whose bytes are not read from the first to the last."""
HEAD, FIRST_LINE = 1 << 12, 1 << 24
MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
)
NO_DATA = (
    (re.compile(rb"version https://git-lfs"), "a git-lfs pointer", "run `git lfs pull` first"),
    (re.compile(rb"(?i)<(!doctype|html|\?xml)"), "a web page", "download the file itself"),
    (re.compile(rb"PK\x03\x04"), "a zip archive", "unpack it first"),
    (re.compile(rb"\xd0\xcf\x11\xe0"), "an old Excel file", "save it as .xlsx or CSV"),
    (re.compile(rb"BZh|\xfd7zXZ|Rar!|7z\xbc\xaf"), "a packed file", "unpack it first"),
    (re.compile(rb"//|/\*"), "a comment", "remove such lines: grep -v '^ *//' FILE > rows.jsonl"),
)


class Look(NamedTuple):
    """What the first bytes of a file show.

    Attributes:
        kind: What kind of data it holds.
        encoding: That of its text; UTF-8 for data that is no text.
    """

    kind: FileKind
    encoding: Encoding


def read_rows(
    path: str | Path,
    *,
    encoding: str | None = None,
    on_error: OnError | None = None,
    watch: Watch | None = None,
) -> Iterator[Row]:
    """Stream the rows of a file, or of all files of a folder in the order of their names.

    See `read_batches` for arguments and errors.
    """
    return itertools.chain.from_iterable(
        read_batches(path, encoding=encoding, on_error=on_error, watch=watch)
    )


def read_batches(
    path: str | Path,
    *,
    encoding: str | None = None,
    on_error: OnError | None = None,
    watch: Watch | None = None,
) -> Iterator[list[Row]]:
    """Stream rows in the batches in which they are parsed; a bad row ends a batch.

    With `on_error` a single bad row is skipped. A file that breaks off raises all the same, since
    the number of rows after the break is unknown.

    Args:
        path: A file, a folder whose files are all of one kind, a hub name, or `-`.
        encoding: That of all text files; without it the encoding of each is detected.
        on_error: Called with the error of each bad row; without it the first one raises.
        watch: Called with the bytes of the file as they are read, for progress and digests.

    Raises:
        DataError: If a row is bad and `on_error` is not given, or the file cannot be read.
    """
    for file in data_files(path):
        if is_hub_name(file):
            yield from ([row] for row in hub_rows(str(file)))
        else:
            yield from _file_rows(file, encoding, on_error, watch)


def data_files(path: str | Path) -> list[Path]:
    """Return the files of a folder in order, the splits of a hub name, or the path itself.

    Raises:
        DataError: If there is no such file, or a folder has no data files or several kinds of them.
    """
    if is_hub_name(path):
        return [Path(name) for name in hub_splits(str(path))]
    path = Path(path)
    if path == STDIN:
        return [path]
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", "check the path; hub names: owner/name")
    if not path.is_dir():
        return [path]
    files = folder_files(path)
    if not files:
        raise DataError(f"{path}: no data file in this folder", f"wanted one of {_listed()}")
    # mixed folders are nearly always a mistake, such as an export next to its source
    kinds: dict[FileKind, Path] = {}
    for file in files:
        kind = file_kind(file)
        # objects, each in a file of its own, may be indented or not
        kinds.setdefault("lines" if kind == "document" else kind, file)
    if len(kinds) > 1:
        (first, one), (second, other) = sorted(kinds.items())[:2]
        raise DataError(
            f"{path}: this folder mixes {KIND_NAMES[first]} ({one.name}) and "
            f"{KIND_NAMES[second]} ({other.name})",
            "name the files one by one, or keep one kind per folder",
        )
    return files


def file_kind(path: Path, encoding: str | None = None) -> FileKind:
    """Find out what kind of data a file holds; see `look`."""
    return look(path, encoding).kind


def look(path: Path, encoding: str | None = None) -> Look:
    """Find out kind and encoding of a file by its first bytes.

    Raises:
        DataError: If it is empty, damaged or not a data file; the message says what it looks like.
    """
    with _readable(path):
        return _look(path, encoding)


def _look(path: Path, encoding: str | None) -> Look:
    with open_plain(path) as stream:
        head = stream.read(HEAD)
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return Look(kind, UTF_8)
    suffix = bare_suffix(path)
    if suffix == ".xlsx" and head.startswith(b"PK\x03\x04"):
        return Look("excel", UTF_8)
    # a download that went wrong often ends in .json, but holds a web page or a pointer
    for pattern, what, remedy in NO_DATA:
        if pattern.match(head.lstrip()) and not (what == "a comment" and suffix in BY_SUFFIX):
            raise DataError(f"{path}:1: this is {what}, not data", remedy)
    with open_plain(path) as stream:
        found = find_encoding(stream, path, encoding)
    with open_plain(path, encoding=found.name) as stream:
        return Look(_text_kind(stream, path, suffix), found)


def other_encoding(file: Path, encoding: str | None = None) -> str | None:
    """Return the encoding of a file, and how it is known; None for UTF-8 and hub data sets.

    Raises:
        DataError: If it is empty or not a data file.
    """
    if is_hub_name(file):
        return None
    found = look(file, encoding).encoding
    return None if found == UTF_8 else str(found)


def fingerprint(file: Path) -> dict[str, Any]:
    """Return what names the content of a file: its sha256 and size, or the commit on the hub."""
    if is_hub_name(file):
        return {"hub": f"{file}@{hub_revision(str(file))}"}
    digest = hashlib.sha256()
    with open_raw(file) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
        return {"sha256": digest.hexdigest(), "bytes": stream.tell()}


def _text_kind(stream: IO[bytes], path: Path, suffix: str) -> FileKind:
    """Find out what kind of data a text in UTF-8 holds."""
    text = b""
    while not text and (block := stream.readline(HEAD)):
        text = block.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise DataError(f"{path}:1: the file is empty", "wanted at least one row")
    # a CSV file may begin with any character, also with [ or {
    if suffix in (".csv", ".tsv"):
        return BY_SUFFIX[suffix]
    if suffix == ".txt":
        return "lines" if _is_object(text) else "text"
    if text.startswith(b"["):
        return "array"
    if text.startswith(b"{"):
        return "document" if _is_document(text, stream) else "lines"
    if suffix in JSON_SUFFIXES:
        return "lines"
    remedy = f"data files end in one of {_listed()}, or begin with [ or {{"
    if path == STDIN:
        remedy = "standard input has no name: save CSV, TSV or plain text in a file with its suffix"
    found = text[:20].decode("utf-8", "replace")
    raise DataError(f"{path}:1:1: wanted rows, found {found!r}", remedy)


def _is_object(line: bytes) -> bool:
    """Whether a line is a row of JSON, so that a text file holds JSON lines."""
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _is_document(line: bytes, stream: IO[bytes]) -> bool:
    """Whether a text that begins with an object is no JSON lines, by its first line."""
    if not line.endswith(b"\n"):
        line += stream.readline(FIRST_LINE)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        # joined objects on one line, or an object that goes on; else a line is damaged
        joined = error.msg.startswith("unexpected content after document")
        return (
            joined and line[: error.pos].endswith(b"}") and line[error.pos :].startswith(b"{")
        ) or (error.msg.startswith("unexpected end") and line.rstrip()[-1:] in b"{[,:")
    from data_tools.reading.json_documents import is_wrapper

    return is_wrapper(value) and not stream.read(HEAD).strip()


def _file_rows(
    path: Path, encoding: str | None, on_error: OnError | None, watch: Watch | None
) -> Iterator[list[Row]]:
    """Yield the rows of one file."""
    source = str(path)
    kind, found = look(path, encoding)
    with _readable(path), open_plain(path, watch, encoding=found.name) as stream:
        parsed = _any(_parsed(kind, stream, source), source)
        if found.name != UTF_8.name:
            parsed = _with_encoding(parsed, found.name)
        yield from numbered(parsed, source, on_error)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise as DataError what the system or a decompressor says of a file."""
    try:
        yield
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        smaller = "write it again in smaller files, rows and batches"
        remedy = smaller if isinstance(error, TooLarge) else "fetch the file again"
        raise DataError(f"{path}: cannot be read: {error}", remedy) from error


def _with_encoding(parsed: Iterable[Batch], encoding: str) -> Iterator[Batch]:
    """Name the encoding in the Faults of text that cannot be decoded."""
    for lines, values in parsed:
        yield Batch(lines, [_renamed(value, encoding) for value in values])


def _renamed(value: object, encoding: str) -> object:
    if isinstance(value, Fault) and value.reason.startswith("not UTF-8"):
        return Fault(f"a character is not {encoding}", "choose another --encoding", value.column)
    return value


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
    source: str,
    on_error: OnError | None,
    *,
    start: int = 0,
) -> Iterator[list[Row]]:
    """Turn parsed values into rows with their places; a Fault raises or goes to `on_error`.

    Args:
        parsed: Batches in the order of the file.
        source: The name of the file.
        on_error: Called with the error of each bad row; without it the first one raises.
        start: How many rows come before the first batch.
    """
    number = start
    for lines, values in parsed:
        starts: Iterable[int | Lines | None] = ()
        if isinstance(lines, MemberLines):
            lines.first = number + 1
            starts = itertools.repeat(lines)
        else:
            starts = lines
        if set(map(type, values)) == {dict}:
            numbers = itertools.count(number + 1)
            # the common case, without a loop in Python
            yield list(map(Row, itertools.repeat(source), numbers, starts, values))
            number += len(values)
            continue
        rows: list[Row] = []
        for at, value in zip(starts, values, strict=False):  # starts may be endless
            number += 1
            if type(value) is dict:
                rows.append(Row(source, number, at, value))
                continue
            if rows:
                yield rows
                rows = []
            fault = value if isinstance(value, Fault) else _not_an_object(value)
            line = at if at is None or isinstance(at, int) else at.of(number)
            error = RowError(source, number, line, fault)
            if on_error is None:
                raise error
            on_error(error)
        if rows:
            yield rows


def _parsed(kind: FileKind, stream: IO[bytes], source: str) -> Iterator[Batch]:
    """Parse a stream with the reader for this kind of file."""
    if kind == "array":
        return array_batches(stream)
    if kind == "lines":
        return line_batches(stream)
    from data_tools.reading.binary import arrow_rows, excel_rows, parquet_rows
    from data_tools.reading.json_documents import document_rows
    from data_tools.reading.tables import csv_rows, text_rows

    readers: dict[FileKind, Callable[[IO[bytes]], Iterator[Parsed]]] = {
        "document": document_rows,
        "csv": lambda stream: csv_rows(stream, delimiter=","),
        "tsv": lambda stream: csv_rows(stream, delimiter="\t"),
        "text": text_rows,
        "parquet": lambda stream: parquet_rows(seekable(stream)),
        "arrow": lambda stream: arrow_rows(seekable(stream)),
        "excel": lambda stream: excel_rows(seekable(stream), source),
    }
    return (Batch.of([parsed]) for parsed in readers[kind](stream))


def _not_an_object(value: object) -> Fault:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    found = names.get(type(value), "a number")
    return Fault(f"this row is {found}, wanted an object with named fields", code="row_type")


def _listed() -> str:
    return ", ".join(SUFFIXES) + " (or those with .gz, .zst)"
