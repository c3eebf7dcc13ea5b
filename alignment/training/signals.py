"""SIGINT, SIGTERM and SIGHUP of a stage, handled from its first moment to its last."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from alignment.errors import Interrupted
from alignment.processes import leave_terminals, stop_signals, terminals


class StopSignals:
    """The first signal that asked a stage to stop.

    While a stage loads, the signal ends it at once. After `defer` it is only noted: training ends
    with its step and saves, and a model that is being saved is saved to the end. A second SIGINT or
    SIGTERM ends the process at once.

    Attributes:
        came: The number of the first signal; None if there was none.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._process = os.getpid()
        self._terminals = terminals()
        self._is_deferred = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals, except those that the parent has set to be ignored (nohup)."""
        previous = {number: signal.signal(number, self._handle) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

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
        else:
            signal.signal(number, signal.SIG_DFL)  # a step may take minutes: the user can insist
        is_first, self.came = self.came is None, self.came or number
        if is_first and not self._is_deferred:
            raise Interrupted(number, "while loading; the same command starts it again")
