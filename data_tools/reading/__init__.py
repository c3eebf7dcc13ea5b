"""Reads files, folders and hub data sets as rows that know their place."""

from data_tools.reading.bar import SLOW, progress
from data_tools.reading.files import (
    FileKind,
    data_files,
    file_kind,
    numbered,
    open_plain,
    read_batches,
    read_rows,
    split_of,
)
from data_tools.reading.hub import hub_revision, hub_splits, is_hub_name
from data_tools.reading.json_rows import (
    Batch,
    array_pieces,
    line_batches,
    line_pieces,
    parse_json,
    parse_piece,
)
from data_tools.reading.licences import licences_of
from data_tools.reading.rows import Fault, OnError, Row, RowError, Watch

__all__ = [
    "SLOW",
    "Batch",
    "Fault",
    "FileKind",
    "OnError",
    "Row",
    "RowError",
    "Watch",
    "array_pieces",
    "data_files",
    "file_kind",
    "hub_revision",
    "hub_splits",
    "is_hub_name",
    "licences_of",
    "line_batches",
    "line_pieces",
    "numbered",
    "open_plain",
    "parse_json",
    "parse_piece",
    "progress",
    "read_batches",
    "read_rows",
    "split_of",
]
