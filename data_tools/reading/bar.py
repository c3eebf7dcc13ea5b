"""A bar with the time left, for files large enough to wait for, where someone is watching."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.reading.rows import Watch

WORTH_A_BAR = 50_000_000
SLOW = 5_000_000
"""The size worth a bar for work of a few megabytes a second: checks, statistics, likeness."""


@contextlib.contextmanager
def progress(files: Sequence[Path], *, worth: int = WORTH_A_BAR) -> Iterator[Watch | None]:
    """A function to tell of bytes read; None where no bar is drawn.

    Args:
        files: What will be read; hub names have no size and add nothing.
        worth: Bytes in all from which a bar is drawn, if standard error is a terminal.
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
