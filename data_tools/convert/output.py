"""Writes output files, each complete or not at all, of the kind that the name asks for."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson
import zstandard

from alignment.errors import ConfigError, DataError
from data_tools.reading import bare_suffix, licences_of, parse_json

if TYPE_CHECKING:
    from data_tools.formats import Located

STDOUT = Path("-")
SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst"})
BEHIND = 8 << 20
"""Bytes of a file that may stay in memory before they are dropped from the page cache."""


@dataclass
class Summary:
    """The counts of one output file; as a string, the table that `convert` prints.

    Attributes:
        output: The file.
        shape: The shape of its rows.
        rows_in: Rows that were read.
        rows_out: Rows that were written.
        dropped: Rows or pairs that were not written, by code.
        formats: Rows that were read, by source and format.
        repaired: Rows that were changed, by repair.
        unanswered: Rows of which `--to prompts` wrote only the prompt.
        halved: Pairs of which `--to sft` wrote only the chosen side.
        unused: Rows that hold text in a column, or a key of turns, that nothing reads, by name.
        unified: Rows of text that were written as messages, because others are conversations.
        encodings: The encodings of sources that are not UTF-8.
    """

    output: Path
    shape: str = ""
    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    formats: Counter[tuple[str, str]] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    halved: int = 0
    unanswered: int = 0
    unified: int = 0
    encodings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.output} ({self.shape})"]
        lines += [
            f"  read     {count:>9,}  {source}: {name}"
            for (source, name), count in sorted(self.formats.items())
        ]
        lines += [f"  encoding {name} of {source}" for source, name in self.encodings.items()]
        lines += [
            f"  licence  {licence} of {source}"
            for source in sorted({source for source, _ in self.formats})
            for licence in licences_of(source, (n for s, n in self.formats if s == source))
        ]
        lines += [f"  dropped  {n:>9,}  {code}" for code, n in sorted(self.dropped.items())]
        lines += [f"  repaired {n:>9,}  {name}" for name, n in sorted(self.repaired.items())]
        lines += [f"  not used {n:>9,}  {name}" for name, n in sorted(self.unused.items())]
        if self.halved:
            lines.append(
                f"  {self.halved:,} pairs written without their rejected side, as SFT rows"
            )
        if self.unanswered:
            lines.append(f"  {self.unanswered:,} rows written without their answers, as prompts")
        if self.unified:
            lines.append(f"  {self.unified:,} rows of text written as messages, like the others")
        lines.append(f"  {self.rows_in:,} rows in, {self.rows_out:,} out")
        if self.dropped:
            lines.append(f"  every dropped row is in {dropped_path(self.output)}")
        return "\n".join(lines)


def dropped_path(output: Path) -> Path:
    """Return the file that lists the rows which an output lacks."""
    name = "stdout" if output == STDOUT else output.name.removesuffix(".jsonl")
    return output.with_name(f"{name}.dropped.jsonl")


def named_for(output: Path, split: str) -> Path:
    """Return the output file for one split: `pairs.train.jsonl`.

    Raises:
        ConfigError: If the output is standard output, which is one file, or asks for another kind.
    """
    if not split:
        return output
    check_output(output)
    if output == STDOUT:
        raise ConfigError("-o -: the sources have several splits", "name a file, or --merge-splits")
    suffix = "".join(part for part in output.suffixes[-2:] if part in SUFFIXES) or ".jsonl"
    return output.with_name(f"{output.name.removesuffix(suffix)}.{split}{suffix}")


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """Return the names of files without their folders, or with them if two have one name."""
    sources = list(sources)
    count = Counter(Path(source).name for source in sources)
    return {s: s if count[Path(s).name] > 1 else Path(s).name for s in sources}


def table(rows: list[tuple[str, ...]]) -> str:
    """Format rows of cells as text: the first column is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing bytes; it gets its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with io.BufferedWriter(_WrittenBehind(partial, "wb"), 1 << 17) as stream:
            yield stream
            stream.flush()
            # before the rename: after a power cut the name must not point to an incomplete file
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _WrittenBehind(io.FileIO):
    """A file whose pages are dropped from the page cache while it grows.

    The kernel then uses them again. To allocate new pages for a large file takes more time than to
    parse what is written to it, and it would push files that are read out of the cache.
    """

    waiting = 0

    def write(self, data: Any) -> int:
        """Write bytes, and regularly drop those that are on the disk."""
        written = super().write(data)
        self.waiting += written
        if self.waiting >= BEHIND and sys.platform == "linux":
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.waiting = 0
        return written


def json_line(value: Any) -> bytes:
    """Return a row as a line of JSON, keys in their order; integers may have any length.

    Raises:
        DataError: If it is nested too deep to be written.
    """
    try:
        return orjson.dumps(value, None, orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        if "64-bit" not in str(error) and "Recursion" not in str(error):
            raise
    # orjson refuses integers beyond 64 bits and 254 levels; the slow way is only for such rows
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError as error:
        reason = f"a row is nested too deep to be written: {str(value)[:60]}"
        raise DataError(reason, "delete the deep column") from error
    return text.encode() + b"\n"


ARROW_BATCH = 1000
OTHERS = frozenset({".arrow", ".txt", ".xlsx", ".xls", ".zip", ".yaml", ".pkl"})
"""Kinds of files that nothing here writes; any other name is that of a JSON lines file."""
Rewrite = Callable[[Path, IO[bytes]], None]


def check_output(path: Path, sources: Iterable[Located] = ()) -> None:
    """See that rows can be written to a file of this name.

    Raises:
        ConfigError: If it is a folder or a source, or its name asks for another kind of file.
    """
    for file, _ in sources:
        if path != STDOUT and file.resolve() == path.resolve():
            raise ConfigError(f"-o {path}: this is one of the sources", "choose another name")
    if path.is_dir():
        raise ConfigError(f"-o {path}: this is a folder", "name a file in it")
    suffix = bare_suffix(path)
    if suffix in OTHERS or (suffix == ".parquet" and path.suffix != ".parquet"):
        kinds = ".jsonl, .json, .csv, .tsv (each also with .gz or .zst) or .parquet"
        raise ConfigError(f"-o {path}: {path.suffix} files are not written", f"wanted {kinds}")


@contextlib.contextmanager
def written_rows(path: Path) -> Iterator[IO[bytes]]:
    """Open an output for JSON lines; it gets its name, and its kind, when the block ends well.

    Args:
        path: `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet`, the first four also with `.gz` or
            `.zst`; `-` is standard output.
    """
    check_output(path)
    rewrite = REWRITES.get(bare_suffix(path))
    if path != STDOUT and rewrite is None and path.suffix not in PACKERS:
        with written_whole(path) as stream:
            yield stream
        return
    folder = None if path == STDOUT else path.parent
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".rows.") as temporary:
        rows = Path(temporary) / "rows.jsonl"
        with rows.open("wb") as stream:
            yield stream
        if path == STDOUT:
            with rows.open("rb") as finished:
                shutil.copyfileobj(finished, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        with written_whole(path) as out, _packed(path, out) as plain:
            (rewrite or _copied)(rows, plain)


@contextlib.contextmanager
def _packed(path: Path, out: IO[bytes]) -> Iterator[Any]:
    """Compress what is written, if the name says so."""
    pack = PACKERS.get(path.suffix)
    if pack is None:
        yield out
        return
    with pack(out) as stream:
        yield stream


# without a time stamp: the same rows give the same bytes
PACKERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda out: gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0),
    ".zst": lambda out: zstandard.ZstdCompressor().stream_writer(out, closefd=False),
}


def _copied(rows: Path, out: IO[bytes]) -> None:
    with rows.open("rb") as stream:
        shutil.copyfileobj(stream, out)


def _read(rows: Path) -> Iterator[dict[str, Any]]:
    with rows.open("rb") as stream:
        for line in stream:
            yield parse_json(line)


def _array(rows: Path, out: IO[bytes]) -> None:
    with rows.open("rb") as stream:
        for i, line in enumerate(stream):
            out.write((b",\n" if i else b"[\n") + line.rstrip(b"\n"))
        out.write(b"\n]\n")


def _csv(delimiter: str) -> Rewrite:
    def rewrite(rows: Path, out: IO[bytes]) -> None:
        names = list(dict.fromkeys(name for row in _read(rows) for name in row))
        text = io.TextIOWrapper(out, "utf-8", newline="")
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(row.get(name)) for name in names] for row in _read(rows))
        text.detach()

    return rewrite


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json_line(value).decode().rstrip("\n")


def _parquet(rows: Path, out: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[str, Any] = {}
    for row in _read(rows):
        for name, value in row.items():
            found = _type(value)
            before = types.setdefault(name, found)
            if before != found and found is not None:
                types[name] = found if before is None else _common(before, found)
    schema = pa.schema([(name, pa.string() if t is None else t) for name, t in types.items()])
    with pq.ParquetWriter(out, schema) as writer:
        for batch in _batches(_read(rows)):
            columns = [
                [_value(row.get(field.name), field.type) for row in batch] for field in schema
            ]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _type(value: Any) -> Any:
    """Return the Arrow type of a value; None for null. What has no plain type is JSON text."""
    import pyarrow as pa

    if value is None:
        return None
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int) and abs(value) < 2**63:
        return pa.int64()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, list) and value and all(_is_plain_turn(one) for one in value):
        return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return pa.string()


def _is_plain_turn(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and list(value) == ["role", "content"]
        and all(isinstance(text, str) for text in value.values())
    )


def _common(one: Any, other: Any) -> Any:
    """Return a type that holds the values of two: numbers, or else JSON text."""
    import pyarrow as pa

    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def _value(value: Any, kind: Any) -> Any:
    return _cell(value) if str(kind) == "string" and value is not None else value


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ARROW_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


REWRITES: dict[str, Rewrite] = {
    ".json": _array,
    ".csv": _csv(","),
    ".tsv": _csv("\t"),
    ".parquet": _parquet,
}
