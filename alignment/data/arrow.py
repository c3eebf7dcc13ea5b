"""Prepared rows as a memory-mapped Arrow file, written batch by batch."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from alignment.data.columns import Encoded

#: Bytes of a block of the file. Whatever maps it reads the head of every block.
_BLOCK = 8_000_000
#: New objects after which Python looks for cycles of garbage while rows are made; else 700.
_OBJECTS = 50_000
#: Columns about a row, next to those that the trainer reads.
LENGTH, FATE, GROUP, FILE, LINE = "length", "fate", "group", "file", "line"
ABOUT_ROW = (LENGTH, FATE, GROUP, FILE, LINE)


class PlacedRow(NamedTuple):
    """An encoded row, the hash of its prompt, and where it comes from.

    Attributes:
        file: The file that it is in.
        line: The line on which it starts; in files without lines its number, negative.
    """

    encoded: Encoded
    group: int
    file: str
    line: int


class RowsWriter:
    """Writes encoded rows to an Arrow stream file, with constant memory.

    Attributes:
        rows: Rows that were written.

    Args:
        path: The file, which `datasets.Dataset.from_file` maps.
        files: The files that rows come from.
    """

    def __init__(self, path: Path, files: Sequence[str]) -> None:
        self._path = path
        self._sink: Any = None
        self._writer: Any = None
        self._waiting: list[pa.RecordBatch] = []
        self.rows = 0
        self._numbers = {file: number for number, file in enumerate(files)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            if error is None and self._waiting:
                self._write_block()
            self._writer.close()
            self._sink.close()

    def write(self, batch: Sequence[PlacedRow]) -> None:
        """Append rows."""
        if not batch:
            return
        rows = [one.encoded for one in batch]
        names = list(rows[0].columns)
        arrays = [_array(name, [one.columns[name] for one in rows]) for name in names]
        arrays += [
            _numbers([one.length for one in rows], np.int32),
            _numbers([int(one.fate) for one in rows], np.uint8),
            _numbers([one.group for one in batch], np.uint64),
            _numbers([self._numbers[one.file] for one in batch], np.int32),
            _numbers([one.line for one in batch], np.int32),
        ]
        table = pa.record_batch(arrays, names=[*names, *ABOUT_ROW])
        if self._writer is None:
            # the columns are those of the first rows
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_stream(self._sink, table.schema)
        self._waiting.append(table)
        if sum(one.nbytes for one in self._waiting) >= _BLOCK:
            self._write_block()
        self.rows += len(batch)

    def _write_block(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._waiting).combine_chunks())
        self._waiting = []


@contextmanager
def few_collections() -> Iterator[None]:
    """Look for cycles of garbage less often: rows are many small objects without cycles."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def read_column(path: Path, name: str) -> npt.NDArray[Any]:
    """One column of numbers about the rows, `(N,)`, from the mapped file."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
        return np.array(table[name].to_numpy())  # a copy: the map ends here


def _array(name: str, values: list[Any]) -> pa.Array:
    """One column; lists go through buffers, many times as fast as Arrow's own conversion."""
    if name == "row":
        return pa.array(values, pa.string())
    if name == "label":
        return pa.array(values, pa.bool_())
    # 32 bits: they count within one batch
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    if name.endswith("_mask"):
        bits = np.packbits(np.frombuffer(b"".join(map(bytes, values)), np.bool_), bitorder="little")
        flat = pa.Array.from_buffers(pa.bool_(), int(offsets[-1]), [None, pa.py_buffer(bits)])
    else:
        numbers = array("i")
        for value in values:
            numbers.fromlist(value)
        flat = _numbers(numbers, np.int32)
    kind, buffers = pa.list_(flat.type), [None, pa.py_buffer(offsets)]
    return pa.Array.from_buffers(kind, len(values), buffers, children=[flat])


def _numbers(values: Sequence[int], kind: type[np.generic]) -> pa.Array:
    """A column of numbers, by its buffer: `pyarrow.array` imports pandas, for half a second."""
    flat = np.asarray(values, kind)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)]
    )
