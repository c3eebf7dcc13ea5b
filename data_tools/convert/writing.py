"""Files that appear whole or not at all."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson

BEHIND = 8 << 20
"""Bytes of a file that may wait in memory for the disk."""


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write bytes to, under a temporary name until the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with io.BufferedWriter(_WrittenBehind(partial, "wb"), 1 << 17) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _WrittenBehind(io.FileIO):
    """A file that goes to the disk while it grows, so that its pages are used again.

    Memory that the kernel must find anew for every page of a large file costs more than the
    parsing of what is written to it; and the cache is left to files that are read.
    """

    waiting = 0

    def write(self, data: Any) -> int:
        """Write bytes, and every now and then let go of those on the disk."""
        written = super().write(data)
        self.waiting += written
        if self.waiting >= BEHIND and sys.platform == "linux":
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.waiting = 0
        return written


def json_line(value: Any) -> bytes:
    """One row of JSON lines, keys in the order they have."""
    return orjson.dumps(value, None, orjson.OPT_APPEND_NEWLINE)
