"""A progress bar with the time left, for large files and only on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_tools.reading.rows import Watch

WORTH_A_BAR = 50_000_000
"""Bytes that are worth a bar for fast work, such as conversion."""
SLOW = 5_000_000
"""Bytes that are worth a bar for slow work: checks, statistics, similarity."""


@contextlib.contextmanager
def progress(files: Sequence[Path], *, worth: int = WORTH_A_BAR) -> Iterator[Watch | None]:
    """Draw a bar while the block runs; yields the function that moves it, or None without a bar.

    Args:
        files: What will be read; hub names have no known size and count as empty.
        worth: A bar is drawn from this total size, if standard error is a terminal.
    """
    total = sum(file.stat().st_size for file in files if file.is_file())
    if total < worth or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda read: bar.advance(task, len(read))
