"""Run a stage as a subprocess of `align run`: it gets the same signals and ends with it."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import FrameType

#: The signal that is forwarded for each one received. A terminal and a scheduler also send theirs
#: to the stage, and a second signal of the same kind would end it at once; the other kind does not.
_HANDED_ON = {signal.SIGINT: signal.SIGTERM, signal.SIGTERM: signal.SIGINT}
_PR_SET_PDEATHSIG = 1


def run_child(words: Sequence[str]) -> int:
    """Run a command and return its exit code, or 128 + signal after a signal to either process."""
    came: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if process is not None:
            process.send_signal(_HANDED_ON[signal.Signals(number)])

    previous = {number: signal.signal(number, hand_on) for number in _HANDED_ON}
    try:
        process = subprocess.Popen(words, preexec_fn=_end_with_parent())
        for number in list(came):
            hand_on(number, None)
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if came:
        return 128 + came[0]
    return code if code >= 0 else 128 - code


def _end_with_parent() -> Callable[[], None] | None:
    """Let the kernel signal the subprocess if this process is killed, so that it saves and ends.

    Otherwise a stage whose parent is gone would keep its GPU and its folder.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
