"""Run a stage as a subprocess of `align run`: it gets the same signals and ends with it."""

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from alignment.processes import (
    end_with_parent,
    handling,
    leave_terminals,
    other_kind,
    terminals,
)


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
            process.send_signal(other_kind(number))

    with handling(hand_on):
        process = subprocess.Popen(words, preexec_fn=end_with_parent())
        for number in list(came):
            process.send_signal(other_kind(number))
        code = process.wait()
    if came:
        return 128 + came[0]
    return code if code >= 0 else 128 - code
