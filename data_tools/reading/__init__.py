"""Rows out of files, folders and hub data sets, with their places."""

from data_tools.reading.files import data_files, file_kind, read_batches, read_rows
from data_tools.reading.hub import is_hub_name
from data_tools.reading.licences import licences_of
from data_tools.reading.progress import SLOW, progress
from data_tools.reading.rows import Fault, OnError, Row, RowError, Watch

__all__ = [
    "SLOW",
    "Fault",
    "OnError",
    "Row",
    "RowError",
    "Watch",
    "data_files",
    "file_kind",
    "is_hub_name",
    "licences_of",
    "progress",
    "read_batches",
    "read_rows",
]
