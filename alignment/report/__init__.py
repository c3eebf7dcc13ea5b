"""Report results: a table for the terminal and one self-contained HTML page."""

from alignment.report.page import write_report
from alignment.report.table import render_table

__all__ = ["render_table", "write_report"]
