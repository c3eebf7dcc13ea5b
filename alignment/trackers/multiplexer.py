"""All trackers of a run as one: the files first, then those of `report_to`; none stops training."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignment.secrets import redact_text
from alignment.settings.trackers import TRACKERS
from alignment.trackers.base import Tracker, TrainerEvent

if TYPE_CHECKING:
    from alignment.runs import Run
    from alignment.trackers.files import FileTracker

_STARTING = "starting"
_FINISHING = "finishing"


class Trackers(Tracker):
    """Passes every call on to each tracker in turn.

    What a tracker raises is printed in one line, once for each kind of call. That call is then
    left out, because a service that is down would delay every step; a tracker that cannot start
    gets no call at all. The files are tried again each time.
    """

    name = "trackers"

    def __init__(self, files: FileTracker | None) -> None:
        self.files = files
        self.trackers: list[Tracker] = [] if files is None else [files]
        self._failed: set[tuple[str, str]] = set()

    def open(self, names: Iterable[str], run: Run, folder: Path) -> None:
        """Add trackers by their names in `report_to`; does nothing outside the main process."""
        if self.files is None:
            return
        for name in names:
            try:
                implementation = pkgutil.resolve_name(TRACKERS[name].implementation)
                self.trackers.append(implementation(name, run, folder))
            except Exception as error:
                self._report(name, _STARTING, error)

    def resume(self, *, step: int) -> None:
        """Start each tracker, or continue it after a step."""
        self._each(_STARTING, lambda tracker: tracker.resume(step=step))

    def set_config(self, config: dict[str, Any]) -> None:
        """Record what the run is."""
        self._each("setting the config", lambda tracker: tracker.set_config(config))

    def log(self, numbers: dict[str, Any], *, step: int) -> None:
        """Record the numbers of a step; each tracker gets a copy."""
        self._each("logging numbers", lambda tracker: tracker.log(dict(numbers), step=step))

    def log_table(self, name: str, rows: list[dict[str, Any]], *, step: int) -> None:
        """Append rows to a table."""
        self._each("logging tables", lambda tracker: tracker.log_table(name, rows, step=step))

    def on_event(self, event: TrainerEvent) -> None:
        """Pass an event of the Trainer on."""
        self._each(event.name, lambda tracker: tracker.on_event(event))

    def finish(self, *, exit_code: int) -> None:
        """End each tracker, also one that failed: it may have half a run open."""
        self._each(_FINISHING, lambda tracker: tracker.finish(exit_code=exit_code))

    def _each(self, doing: str, call: Callable[[Tracker], None]) -> None:
        for tracker in self.trackers:
            failed = self._failed & {(tracker.name, doing), (tracker.name, _STARTING)}
            if failed and tracker is not self.files and doing != _FINISHING:
                continue
            try:
                call(tracker)
            except Exception as error:
                self._report(tracker.name, doing, error)

    def _report(self, name: str, doing: str, error: Exception) -> None:
        if (name, doing) in self._failed:
            return
        self._failed.add((name, doing))
        if self.files is not None and name == self.files.name:
            outcome = " and is tried again with the next line"
        else:
            outcome = "" if doing == _FINISHING else " and is left out from now on"
        click.echo(redact_text(f"{name}: {doing} failed{outcome}: {first_line(error)}"), err=True)


def first_line(error: Exception) -> str:
    """What an error says in its first line, its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
