"""Run a stage as a subprocess of `align run`: it gets the same signals and ends with it."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from alignment.processes import leave_terminals, stop_signals, terminals

_PR_SET_PDEATHSIG = 1


def run_child(words: Sequence[str]) -> int:
    """Run a command and return its exit code, or 128 + signal after a signal to either process."""
    came: list[int] = []
    process: subprocess.Popen[bytes] | None = None
    at_start = terminals()

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if signal.Signals(number).name == "SIGHUP":
            leave_terminals(at_start)
        if process is not None:
            process.send_signal(_other_kind(number))

    previous = {number: signal.signal(number, hand_on) for number in stop_signals()}
    try:
        process = subprocess.Popen(words, preexec_fn=_end_with_parent())
        for number in list(came):
            process.send_signal(_other_kind(number))
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if came:
        return 128 + came[0]
    return code if code >= 0 else 128 - code


def _other_kind(number: int) -> signal.Signals:
    """The signal that is forwarded for one received.

    A terminal and a scheduler also send theirs to the stage, and a second signal of the same kind
    would end it at once; another kind does not.
    """
    return signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM


def _end_with_parent() -> Callable[[], None] | None:
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
