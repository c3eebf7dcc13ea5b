"""The tracker that is always there: metrics.jsonl, and one file for each table."""

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignment.disk import write_text
from alignment.runs import METRICS
from alignment.secrets import redact_text
from alignment.trackers.base import Tracker, TrainerEvent

#: The tables that a resumed run continues.
_TABLES = ("samples", "alarms")


class FileTracker(Tracker):
    """Appends numbers to `metrics.jsonl` and the rows of a table to `<table>.jsonl`.

    If the disk refuses a line, the line is kept and written with the next one.
    """

    name = METRICS

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unwritten: dict[str, str] = {}

    def resume(self, *, step: int) -> None:
        """Remove what a previous process logged after the checkpoint that this one starts from."""
        _keep_lines(self.folder / METRICS, below=step + 1)
        for table in _TABLES:
            # A rollout is logged under the step before it, so that of this step comes again.
            _keep_lines(self.folder / f"{table}.jsonl", below=step)

    def set_config(self, config: dict[str, Any]) -> None:
        """Do nothing: run.json has it."""

    def log(self, numbers: dict[str, Any], *, step: int) -> None:
        """Append one line: step, epoch, time in seconds since 1970, then the numbers."""
        line = {"step": step, "epoch": numbers.get("epoch"), "time": time.time()}
        line |= {key: _loggable(value) for key, value in numbers.items() if key != "epoch"}
        self._append(METRICS, json.dumps(line) + "\n")

    def log_table(self, name: str, rows: list[dict[str, Any]], *, step: int) -> None:
        """Append each row as a line of JSON that begins with the step."""
        lines = (json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows)
        self._append(f"{name}.jsonl", "".join(lines))

    def on_event(self, event: TrainerEvent) -> None:
        """Flush the numbers to the disk before the checkpoint that they lead to is sealed."""
        path = self.folder / METRICS
        if event.name == "on_save" and path.is_file():
            with path.open("ab") as file:
                os.fsync(file.fileno())

    def finish(self, *, exit_code: int) -> None:
        """Do nothing: each line is written when it is logged."""

    def _append(self, name: str, lines: str) -> None:
        path = self.folder / name
        self._unwritten[name] = self._unwritten.get(name, "") + lines
        self.folder.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.is_file() else 0
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(self._unwritten[name])
        except OSError:
            with suppress(OSError):  # a full disk takes half of a line
                os.truncate(path, size)
            raise
        del self._unwritten[name]


def _loggable(value: Any) -> Any:
    """A value that JSON has: NaN and infinity become null, and text is stripped of keys."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | bool | None) else redact_text(str(value))


def _keep_lines(path: Path, *, below: int) -> None:
    """Keep the whole lines of earlier steps."""
    if not path.is_file():
        return
    # by "\n" alone: texts in JSON may hold other characters that end a line, such as U+2028
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        lines = list(file)
    write_text(path, "".join(line for line in lines if line.endswith("\n") and _step(line) < below))


def _step(line: str) -> float:
    """The step of a line, infinity if the line is damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
