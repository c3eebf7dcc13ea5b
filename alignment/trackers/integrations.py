"""The trackers that transformers has callbacks for, behind our protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from alignment.trackers.base import Tracker, TrainerEvent

if TYPE_CHECKING:
    from alignment.runs import Run


class IntegrationTracker(Tracker):
    """Drives a callback of transformers, which records the arguments of the trainer by itself.

    The callback's on_train_end closes the tracker, but a trainer may evaluate after it, so it is
    called by `finish`.
    """

    def __init__(self, name: str, run: Run, folder: Path) -> None:
        self.name = name
        self.run = run
        self.folder = folder
        self.integration = name
        self.callback: Any = self.make_callback()
        self._now: TrainerEvent  # set by the first event, which precedes all methods
        self._end: TrainerEvent | None = None

    def make_callback(self) -> TrainerCallback:
        """The callback that transformers has for the name in `report_to`."""
        (callback,) = get_reporting_integration_callbacks([self.integration])
        made: TrainerCallback = callback()
        return made

    def on_event(self, event: TrainerEvent) -> None:
        """Keep what the methods below pass to the callback; pass every other event on at once."""
        if event.name in ("on_train_begin", "on_log"):
            self._now = event
        elif event.name == "on_train_end":
            self._end = event
        else:
            self._call(event)

    def resume(self, *, step: int) -> None:
        """Let the callback start its tracker; whether it continues a run is up to that tracker."""
        self._call(self._now)

    def set_config(self, config: dict[str, Any]) -> None:
        """Do nothing: the callback records the trainer's arguments, and has no way to add more."""

    def log(self, numbers: dict[str, Any], *, step: int) -> None:
        """Let the callback log; it takes the step from the trainer's state."""
        self._call(self._now, logs=numbers)

    def log_table(self, name: str, rows: list[dict[str, Any]], *, step: int) -> None:
        """Do nothing: the callbacks of transformers have no tables."""

    def finish(self, *, exit_code: int) -> None:
        """Let the callback close its tracker, if training came to its end."""
        if self._end is not None:
            self._call(self._end)

    def _call(self, event: TrainerEvent, **more: Any) -> None:
        method = getattr(self.callback, event.name)
        method(event.args, event.state, event.control, **event.others, **more)


def as_cell(value: Any) -> int | float | str:
    """A value as a table shows it: lists and objects become JSON."""
    return value if isinstance(value, int | float | str) else json.dumps(value, ensure_ascii=False)
