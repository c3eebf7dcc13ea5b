"""Store finished batches on disk until all rows are finished: one file per process.

Each row is one line, and each batch is appended and synced to the disk as a whole. If a process is
killed within a batch, the incomplete lines are ignored, and cut off before the next batch is
appended. Batches are planned from the whole input, so repeating one gives the same rows.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from alignment.errors import ConfigError
from data_tools.convert.output import json_line


@dataclass(frozen=True, slots=True)
class Parts:
    """The folder with the part files of one output."""

    folder: Path

    def settings(self) -> list[dict[str, Any]]:
        """The settings that each part was made with."""
        return [part.settings for part in self._read() if part.settings]

    def refuse_others(self, settings: Mapping[str, Any]) -> None:
        """Check that existing parts were made with the given settings.

        Raises:
            ConfigError: A part was made with other settings; the message names them.
        """
        for previous in self.settings():
            was = _flat(previous)
            found = [
                f"{key} {_shown(was.get(key))} -> {_shown(value)}"
                for key, value in _flat(settings).items()
                if was.get(key) != value
            ]
            if found:
                raise ConfigError(
                    f"{self.folder}: cannot continue with other settings: {'; '.join(found)}",
                    "undo these changes, or start again with --overwrite",
                )

    def rows(self) -> dict[int, dict[str, Any]]:
        """All rows of complete batches, by row number."""
        return {row["row"]: row for part in self._read() for row in part.rows}

    @contextmanager
    def appending(self, rank: int, settings: Mapping[str, Any]) -> Iterator[Appender]:
        """Open the part file of one process, cut to its last complete batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"part-{rank}.jsonl"
        path.touch()
        end = _read_part(path).end
        with path.open("r+b") as file:
            file.truncate(end)
            file.seek(end)
            appender = Appender(file)
            if not end:
                appender.write(json_line({"settings": dict(settings)}))
            yield appender

    def delete(self) -> None:
        """Delete all parts."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _read(self) -> Iterator[_Part]:
        for path in sorted(self.folder.glob("part-*.jsonl")):
            yield _read_part(path)


@dataclass(frozen=True, slots=True)
class Appender:
    """Appends complete batches to a part file."""

    file: IO[bytes]

    def add(self, batch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the rows of a batch and wait until they are on the disk."""
        head = {"batch": batch, "of": len(rows)}
        self.write(b"".join(json_line({**head, **row}) for row in rows))

    def write(self, data: bytes) -> None:
        """Append bytes and wait until they are on the disk."""
        self.file.write(data)
        self.file.flush()
        os.fsync(self.file.fileno())


@dataclass(frozen=True, slots=True)
class _Part:
    """The settings and complete batches of a part file, which end at byte `end`."""

    settings: dict[str, Any] | None
    rows: list[dict[str, Any]]
    end: int


def _read_part(path: Path) -> _Part:
    settings: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    end = position = 0
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            value = _parsed(line)
            if value is None:
                break
            if settings is None:
                settings, end = value.get("settings"), position
                continue
            if "of" not in value or (waiting and waiting[0]["batch"] != value["batch"]):
                break
            waiting.append(value)
            if len(waiting) == value["of"]:
                rows += waiting
                waiting, end = [], position
    return _Part(settings, rows, end)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object on a line; None if the line is incomplete."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with one entry for each version."""
    versions = settings.get("versions", {})
    rest = {key: value for key, value in settings.items() if key != "versions"}
    return rest | {f"version of {name}": version for name, version in versions.items()}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
