"""Reads Parquet, Arrow and Excel files: tables whose cells have types."""

import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import IO, Any

from alignment.errors import DataError
from data_tools.reading.arrow_sizes import unpacked_sizes
from data_tools.reading.cells import turns_of_cell, with_faults
from data_tools.reading.opening import LARGEST_COPY
from data_tools.reading.rows import LARGEST_ROW, Fault, Parsed, TooLarge

BATCH = 512
LONG_ROW = 1 << 20
"""Bytes of a row from which a few of them in one group may fill the memory."""
LARGEST_BOOK = 1 << 30
"""Bytes of the parts of an Excel file when they are unpacked."""
LONGEST_CELL = 32_767
"""Characters that Excel can hold in a cell; it cuts longer text without a word."""


def parquet_rows(stream: IO[bytes]) -> Iterator[Parsed]:
    """Yield the rows of a Parquet file, a batch at a time."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile, read_schema

    try:
        names = [field.name for field in read_schema(stream) if str(field.type) in STRINGS]
        stream.seek(0)
        # a dictionary keeps a text once that thousands of rows repeat
        with stream, ParquetFile(stream, read_dictionary=names) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            mean = max((one.total_byte_size // max(one.num_rows, 1) for one in groups), default=0)
            # a page holds whole values, and is unpacked at once
            if mean > LONG_ROW and any(one.total_byte_size > LARGEST_COPY for one in groups):
                raise TooLarge(f"its groups of rows have over {LARGEST_COPY >> 30} GiB unpacked")
            for batch in file.iter_batches(
                batch_size=max(1, min(BATCH, LARGEST_ROW // (mean + 1)))
            ):
                yield from _batch_rows(batch)
    except ArrowException as error:
        raise OSError(f"not a complete Parquet file: {error}") from error


STRINGS = frozenset({"string", "large_string"})
MEASURED = STRINGS | {"binary", "large_binary"}


def arrow_rows(stream: IO[bytes]) -> Iterator[Parsed]:
    """Yield the rows of an Arrow file or stream, as `datasets` saves them."""
    import pyarrow as pa

    try:
        with stream:
            is_file = stream.read(6) == b"ARROW1"
            stream.seek(0)
            if any(size > LARGEST_COPY for size in unpacked_sizes(stream)):
                raise TooLarge(f"its batches have over {LARGEST_COPY >> 30} GiB unpacked")
            stream.seek(0)
            opened = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(stream)
            batches = (
                (opened.get_batch(i) for i in range(opened.num_record_batches))
                if is_file
                else opened
            )
            for batch in batches:
                batch.validate(full=True)  # a damaged file would end Python without an error
                for start in range(0, batch.num_rows, BATCH):
                    yield from _batch_rows(batch.slice(start, BATCH))
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise OSError(f"not a complete Arrow file: {error}") from error


def _batch_rows(batch: Any) -> Iterator[Parsed]:
    """Yield the rows of a batch; fewer at once if they are large.

    Raises:
        TooLarge: If a row has more text than one may have.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    largest = 0
    for column in batch.columns:
        # a dictionary has a text once that many rows share
        values = column.dictionary if pa.types.is_dictionary(column.type) else column
        if len(values) and str(values.type) in MEASURED:
            largest += pc.max(pc.binary_length(values)).as_py() or 0
    if largest > LARGEST_ROW:
        raise TooLarge(f"a row has more than {LARGEST_ROW >> 20} MiB")
    step = max(1, min(BATCH, LARGEST_ROW // (largest + 1)))
    for start in range(0, batch.num_rows, step):
        part = batch.slice(start, step)
        columns = [
            column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            for column in part.columns
        ]
        for row in pa.RecordBatch.from_arrays(columns, names=part.schema.names).to_pylist():
            for name, cell in row.items():
                if type(cell) is str and cell[:1] in "[{a" and (turns := turns_of_cell(cell)):
                    row[name] = turns
            yield None, with_faults(row)


def excel_rows(stream: IO[bytes], source: str) -> Iterator[Parsed]:
    """Yield the rows of the only sheet with text of an Excel file; a row's line is its number.

    Raises:
        DataError: If openpyxl is not installed, or several sheets have rows.
    """
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError as error:
        raise DataError(
            f"{source}: Excel files need openpyxl", "pip install openpyxl, or save it as CSV"
        ) from error
    try:
        with zipfile.ZipFile(stream) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST_BOOK:
                raise TooLarge(f"larger than {LARGEST_BOOK >> 30} GiB when it is unpacked")
    except zipfile.BadZipFile as error:
        raise OSError(f"not a complete Excel file: {error}") from error
    book = load_workbook(stream, read_only=True, data_only=True)
    try:
        sheets = [sheet for sheet in book.worksheets if any(_filled(sheet))]
        if len(sheets) > 1:
            names = ", ".join(repr(sheet.title) for sheet in sheets)
            raise DataError(f"{source}: several sheets have rows: {names}", "save each as CSV")
        for sheet in sheets:
            yield from _sheet_rows(_filled(sheet))
    finally:
        book.close()


def _filled(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    """Yield the rows of a sheet that have a value, with their numbers."""
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        if any(cell is not None for cell in cells):
            yield number, ["" if cell is None else cell for cell in cells]


def _sheet_rows(rows: Iterator[tuple[int, list[Any]]]) -> Iterator[Parsed]:
    _, first = next(rows)
    header = [str(name).strip() for name in first]
    for number, cells in rows:
        yield number, _sheet_row(header, cells)


def _sheet_row(header: list[str], cells: list[Any]) -> dict[str, Any] | Fault:
    row: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=False):
        if not name:
            if cell != "":
                return Fault(f"the cell {str(cell)[:20]!r} has no column name", "name its column")
            continue
        value = cell.isoformat() if isinstance(cell, date | datetime | time) else cell
        if isinstance(value, str):
            if len(value) >= LONGEST_CELL:
                return Fault(
                    f"{name!r} has {LONGEST_CELL:,} characters, where Excel cuts a text off",
                    "take the row from its source, as JSON lines or CSV",
                )
            turns = turns_of_cell(value)
            value = value if turns is None else turns
        row[name] = value
    return with_faults(row)
