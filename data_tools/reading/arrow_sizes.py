"""How large the compressed batches of an Arrow file are unpacked, found without unpacking them.

Arrow allocates what a buffer says of its size, and has no limit of its own. Each message of a file
has a flatbuffer that lists its buffers, and each compressed buffer begins with its size:
https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
"""

import struct
from collections.abc import Iterator
from typing import IO

CONTINUES = 0xFFFFFFFF
DICTIONARY, RECORDS = 2, 3
MAGIC = b"ARROW1\0\0"
LARGEST_HEAD = 1 << 28


def unpacked_sizes(stream: IO[bytes]) -> Iterator[int]:
    """Yield the bytes of each batch when it is unpacked; 0 for one that is not compressed.

    Raises:
        ValueError: If this is not a complete Arrow file or stream.
    """
    try:
        if stream.read(len(MAGIC)) != MAGIC:
            stream.seek(0)
        while head := _next_head(stream):
            start = stream.tell()
            yield _unpacked(head, stream, start)
            stream.seek(start + head.number(head.root, 3, "<q"))
    except (struct.error, IndexError) as error:
        raise ValueError(f"damaged: {error}") from error


class _Head:
    """The flatbuffer of a message: tables with numbered fields."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.root = self.at(0, "<I")

    def at(self, place: int, kind: str) -> int:
        return int(struct.unpack_from(kind, self.data, place)[0])

    def field(self, table: int, number: int) -> int:
        """Return the place of a field of a table; 0 if it is not there."""
        fields = table - self.at(table, "<i")
        if 4 + 2 * number >= self.at(fields, "<H"):
            return 0
        offset = self.at(fields + 4 + 2 * number, "<H")
        return table + offset if offset else 0

    def number(self, table: int, field: int, kind: str) -> int:
        """Return a number of a table; 0 if it is not there."""
        place = self.field(table, field)
        return self.at(place, kind) if place else 0

    def inner(self, table: int, field: int) -> int:
        """Return the place of what a field refers to; 0 if it is not there."""
        place = self.field(table, field)
        return place + self.at(place, "<I") if place else 0


def _next_head(stream: IO[bytes]) -> _Head | None:
    """Return the flatbuffer of the next message; None at the end."""
    first = stream.read(4)
    if len(first) < 4:
        return None
    size = struct.unpack("<I", first)[0]
    if size == CONTINUES:  # files from before 2019 have only the size
        size = struct.unpack("<I", stream.read(4))[0]
    if size > LARGEST_HEAD:
        raise ValueError("damaged: a message has too large a head")
    return _Head(stream.read(size)) if size else None


def _unpacked(head: _Head, stream: IO[bytes], start: int) -> int:
    kind, batch = head.number(head.root, 1, "<B"), head.inner(head.root, 2)
    if kind == DICTIONARY:
        batch = head.inner(batch, 1)
    if kind not in (DICTIONARY, RECORDS) or not head.field(batch, 3):
        return 0
    buffers, total = head.inner(batch, 2), 0
    for i in range(head.at(buffers, "<I") if buffers else 0):
        offset, length = struct.unpack_from("<qq", head.data, buffers + 4 + 16 * i)
        if length:
            stream.seek(start + offset)
            size = struct.unpack("<q", stream.read(8))[0]
            total += length if size < 0 else size  # -1: this buffer is not compressed
    return total
