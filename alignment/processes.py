"""This process among others: its rank, and the signals and terminals that it shares with them.

Without importing accelerate.
"""

import os
import signal
from collections.abc import Iterable


def rank() -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """The number of processes that the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that prints and writes records."""
    return rank() == 0


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a process to stop, except those that it is to ignore.

    `nohup` lets SIGHUP be ignored, and a shell SIGINT of a job in the background. Windows has no
    SIGHUP.
    """
    asked = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN]


def terminals() -> list[int]:
    """Those of standard input, output and error that are terminals."""
    return [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]


def leave_terminals(descriptors: Iterable[int]) -> None:
    """Replace terminals that were closed by the null device: each write would raise an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
