"""A stage as a child of `align run`: it gets its signals, and ends where that one is killed."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import FrameType

#: The signal that is handed on for one that came. A terminal and a scheduler send theirs to the
#: stage too, and the same one twice ends it at once; the other one only repeats the wish.
_HANDED_ON = {signal.SIGINT: signal.SIGTERM, signal.SIGTERM: signal.SIGINT}
_PR_SET_PDEATHSIG = 1


def run_child(words: Sequence[str]) -> int:
    """Run a command to its end; its exit code, 128 and the number after a signal to either."""
    came: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if process is not None:
            process.send_signal(_HANDED_ON[signal.Signals(number)])

    former = {number: signal.signal(number, hand_on) for number in _HANDED_ON}
    try:
        process = subprocess.Popen(words, preexec_fn=_end_with_parent())
        for number in list(came):
            hand_on(number, None)
        code = process.wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if came:
        return 128 + came[0]
    return code if code >= 0 else 128 - code


def _end_with_parent() -> Callable[[], None] | None:
    """Have the kernel tell the child where this process is killed: it saves and ends.

    Else a stage that nobody waits for would hold its GPU and its folder.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
