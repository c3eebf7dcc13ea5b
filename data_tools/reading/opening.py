"""Opens files as streams of bytes: unpacked, recoded as UTF-8, watched; `-` is standard input."""

import atexit
import functools
import gzip
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import zstandard

from data_tools.reading.encodings import Recoded
from data_tools.reading.rows import TooLarge, Watch

STDIN = Path("-")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BUFFER = 1 << 16
LARGEST_COPY = 1 << 30
"""Bytes that a packed file may have unpacked if it must be copied to be read."""


def open_plain(path: Path, watch: Watch | None = None, *, encoding: str = "utf-8") -> IO[bytes]:
    """Open a file for reading bytes; gzip and zstandard are unpacked, whatever the name says.

    Args:
        path: The file; `-` for standard input, which can be opened again and again.
        watch: Called with the bytes of the file as they are read.
        encoding: That of its text, which is recoded as UTF-8.
    """
    plain = _unpacked(open_raw(path, watch))
    return plain if encoding == "utf-8" else io.BufferedReader(Recoded(plain, encoding), BUFFER)


def seekable(stream: IO[bytes]) -> IO[bytes]:
    """Return a stream that can seek, as Parquet needs: a temporary copy if it is compressed.

    Raises:
        TooLarge: If the copy would be too large.
    """
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
        return stream
    copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the reader
    while block := stream.read(1 << 20):
        copy.write(block)
        if copy.tell() > LARGEST_COPY:
            copy.close()
            raise TooLarge(f"larger than {LARGEST_COPY >> 30} GiB when it is unpacked")
    copy.seek(0)
    return copy


def open_raw(path: Path, watch: Watch | None = None) -> IO[bytes]:
    """Open a file as it is on disk; `-` is standard input."""
    file = _stdin_copy(sys.stdin.buffer) if path == STDIN else path
    raw = _Watched(file, watch) if watch else io.FileIO(file)
    return io.BufferedReader(raw, BUFFER)


def _unpacked(stream: IO[bytes]) -> IO[bytes]:
    magic = stream.read(4)
    stream.seek(0)
    if magic.startswith(GZIP):
        return io.BufferedReader(_Gunzipped(stream))
    if magic == ZSTD:
        plain = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        return io.BufferedReader(plain)
    return stream


@functools.lru_cache(maxsize=1)
def _stdin_copy(stdin: IO[bytes]) -> Path:
    """Standard input as a temporary file: its kind and encoding are found before it is read."""
    with tempfile.NamedTemporaryFile(delete=False) as copy:
        atexit.register(Path(copy.name).unlink, missing_ok=True)
        shutil.copyfileobj(stdin, copy)
    return Path(copy.name)


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
