"""SIGINT, SIGTERM and SIGHUP of a stage, handled from its first moment to its last."""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from alignment.errors import Interrupted
from alignment.processes import (
    end_with_launcher,
    handling,
    launcher,
    leave_terminals,
    terminals,
)

#: Seconds within which a second signal may be an echo of the first one.
_ECHO = 2.0
#: What an interrupted start leaves, and what to do.
WHILE_LOADING = "while loading; the same command starts it again"


class StopSignals:
    """The first signal that asked a stage to stop.

    While a stage loads, the signal ends it at once. After `defer` it is only noted: training ends
    with its step and saves, and a model that is being saved is saved to the end. A second SIGINT or
    SIGTERM ends the process at once; not a rank's, which may get the first one from several sides.

    Attributes:
        came: The number of the first signal; None if there was none.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._process = os.getpid()
        self._terminals = terminals()
        self._launcher = launcher()
        self._since: dict[int, float] = {}
        self._is_deferred = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals, except those that the parent has set to be ignored (nohup)."""
        with handling(self._handle):
            if self._launcher is not None:
                end_with_launcher()
            yield

    def defer(self) -> None:
        """From here on, only note a signal; whoever continues calls `check`."""
        self._is_deferred = True

    def check(self, outcome: str) -> None:
        """Stop if a signal came; ``outcome`` says what was made and what to do.

        Raises:
            Interrupted: One came.
        """
        if self.came is not None:
            raise Interrupted(self.came, outcome)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker ends when its parent ends it
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if signal.Signals(number).name == "SIGHUP":  # often comes twice: from kernel and shell
            leave_terminals(self._terminals)
        elif self._is_insisting(number):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT and self._launcher is None:
            signal.signal(number, signal.SIG_DFL)  # a step may take minutes: the user can insist
        is_first, self.came = self.came is None, self.came or number
        self._since.setdefault(number, time.monotonic())
        if is_first and not self._is_deferred:
            raise Interrupted(number, WHILE_LOADING)

    def _is_insisting(self, number: int) -> bool:
        """Whether a signal came before, and not just as an echo.

        The kernel sends SIGTERM once for each thread of a parent that is killed. A rank gets
        signals from a scheduler and from its launcher, as long as there is one.
        """
        if self._launcher is not None and os.getppid() == self._launcher:
            return False
        return time.monotonic() - self._since.get(number, math.inf) > _ECHO
