"""Reads files, folders and hub data sets as rows that know their place."""

from data_tools.reading.bar import SLOW, progress
from data_tools.reading.cells import turns_of_cell
from data_tools.reading.encodings import UTF_8, checked_encoding
from data_tools.reading.files import (
    KIND_NAMES,
    UNORDERED,
    FileKind,
    data_files,
    file_kind,
    fingerprint,
    look,
    numbered,
    other_encoding,
    read_batches,
    read_rows,
)
from data_tools.reading.folders import bare_suffix, split_of
from data_tools.reading.hub import hub_revision, hub_splits, is_hub_name
from data_tools.reading.json_rows import (
    Batch,
    array_pieces,
    line_batches,
    line_pieces,
    newlines,
    parse_json,
    parse_piece,
)
from data_tools.reading.licences import licences_of
from data_tools.reading.opening import STDIN, open_plain, open_raw
from data_tools.reading.rows import Fault, MadeRow, OnError, Row, RowError, Watch, place

__all__ = [
    "KIND_NAMES",
    "SLOW",
    "STDIN",
    "UNORDERED",
    "UTF_8",
    "Batch",
    "Fault",
    "FileKind",
    "MadeRow",
    "OnError",
    "Row",
    "RowError",
    "Watch",
    "array_pieces",
    "bare_suffix",
    "checked_encoding",
    "data_files",
    "file_kind",
    "fingerprint",
    "hub_revision",
    "hub_splits",
    "is_hub_name",
    "licences_of",
    "line_batches",
    "line_pieces",
    "look",
    "newlines",
    "numbered",
    "open_plain",
    "open_raw",
    "other_encoding",
    "parse_json",
    "parse_piece",
    "place",
    "progress",
    "read_batches",
    "read_rows",
    "split_of",
    "turns_of_cell",
]
