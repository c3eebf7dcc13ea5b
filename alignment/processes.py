"""This process among others: its rank, and the signals and terminals that it shares with them.

Without importing accelerate.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

_PR_SET_PDEATHSIG = 1


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


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call a handler for the signals that ask to stop, and put back what was there."""
    previous = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def terminals() -> list[int]:
    """Those of standard input, output and error that are terminals."""
    return [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]


def leave_terminals(descriptors: Iterable[int]) -> None:
    """Replace terminals that were closed by the null device: each write would raise an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def leave_signals_to_parent(initialize: Callable[[int], None] | None, worker: int) -> None:
    """Let a worker of a DataLoader end only when its parent ends it (Linux).

    A scheduler or a shell sends SIGTERM to all processes of a job. A worker that ended at once
    would raise an error in the step that its parent still makes, before it saves.

    Args:
        initialize: What the worker would do else.
        worker: Its number.
    """
    if initialize is not None:
        initialize(worker)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by, args=(os.getppid(),), daemon=True).start()


def _end_by(parent: int) -> None:
    """Wait for SIGTERM from one process, then end this one."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def other_kind(number: int) -> signal.Signals:
    """The signal that is forwarded for one received.

    A terminal and a scheduler also send theirs to the stage, and a second signal of the same kind
    would end it at once; another kind does not. A job in the background ignores SIGINT, and so does
    its stage.
    """
    hears_int = signal.SIGINT in stop_signals()
    return signal.SIGINT if number == signal.SIGTERM and hears_int else signal.SIGTERM


def launcher() -> int | None:
    """The process id of torch's launcher, None if it did not start this process."""
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def end_with_launcher() -> None:
    """Let the kernel send SIGTERM to this process if the launcher is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with_parent() -> Callable[[], None] | None:
    """Let the kernel signal the subprocess if this process is killed, so that it saves and ends.

    Otherwise a stage whose parent is gone would keep its GPU and its folder.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_the_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # killed before the kernel was asked
            os.kill(os.getpid(), signal.SIGTERM)

    return ask_the_kernel
