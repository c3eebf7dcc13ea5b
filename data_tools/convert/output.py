"""Writes output files, each complete or not at all, and counts their rows."""

import contextlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from data_tools.reading import licences_of

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
        halved: Pairs of which `--to sft` wrote only the chosen side.
        unified: Rows of text that were written as messages, because others are conversations.
    """

    output: Path
    shape: str = ""
    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    formats: Counter[tuple[str, str]] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    halved: int = 0
    unified: int = 0

    def __str__(self) -> str:
        lines = [f"{self.output} ({self.shape})"]
        lines += [
            f"  read     {count:>9,}  {source}: {name}"
            for (source, name), count in sorted(self.formats.items())
        ]
        lines += [
            f"  licence  {licence} of {source}"
            for source in sorted({source for source, _ in self.formats})
            for licence in licences_of(source, (n for s, n in self.formats if s == source))
        ]
        lines += [f"  dropped  {n:>9,}  {code}" for code, n in sorted(self.dropped.items())]
        lines += [f"  repaired {n:>9,}  {name}" for name, n in sorted(self.repaired.items())]
        if self.halved:
            lines.append(
                f"  {self.halved:,} pairs written without their rejected side, as SFT rows"
            )
        if self.unified:
            lines.append(f"  {self.unified:,} rows of text written as messages, like the others")
        lines.append(f"  {self.rows_in:,} rows in, {self.rows_out:,} out")
        if self.dropped:
            lines.append(f"  every dropped row is in {dropped_path(self.output)}")
        return "\n".join(lines)


def dropped_path(output: Path) -> Path:
    """Return the file that lists the rows which an output lacks."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".dropped.jsonl")


def named_for(output: Path, split: str) -> Path:
    """Return the output file for one split: `pairs.train.jsonl`."""
    stem = output.name.removesuffix(".jsonl")
    return output.with_name(f"{stem}.{split}.jsonl" if split else output.name)


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
    """Return a row as a line of JSON, keys in their order; integers may have any length."""
    try:
        return orjson.dumps(value, None, orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        if "64-bit" not in str(error):
            raise
    # orjson refuses integers beyond 64 bits; few rows have them, so the slow way is only for those
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"
