"""Checkpoints that count only when whole: sealed by a manifest, verified before they are used.

A trainer writes a folder file by file. A kill, a full disk or a power cut leaves it torn, and a
torn one looks like the newest. So a checkpoint counts once its manifest is there, and the manifest
is written last, after every file has reached the disk.
"""

import json
import shutil
from pathlib import Path

from alignment.disk import digest_file, sync, write_text
from alignment.errors import ConfigError
from alignment.runs.files import (
    MANIFEST,
    OPTIMIZER_STATES,
    SCHEDULER_STATE,
    TRAINER_STATE,
    checkpoint_step,
    checkpoints,
)

_TORN = "torn-"
_LEAVING = ".leaving-"


def seal(folder: Path) -> None:
    """Bring every file of a checkpoint to the disk, then write what they are into its manifest."""
    files: dict[str, dict[str, int | str]] = {}
    for path in _files(folder):
        sync(path)
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": digest_file(path)}
    for path in sorted(path for path in folder.rglob("*") if path.is_dir()):
        sync(path)
    write_text(folder / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")
    sync(folder)
    sync(folder.parent)


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where it is whole."""
    path = folder / MANIFEST
    if not path.is_file():
        return "it was never completed: no manifest"
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        return f"{MANIFEST} cannot be read"
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["size"]:
            return f"{name} has {file.stat().st_size} bytes in place of {expected['size']}"
        if digest_file(file) != expected["sha256"]:
            return f"{name} was changed: its sha256 differs"
    return None


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and a line for each torn one that was set aside.

    A torn checkpoint is renamed, never deleted; only those newer than the one returned are looked
    at.
    """
    told: list[str] = []
    for checkpoint in reversed(checkpoints(folder)):
        fault = find_fault(checkpoint)
        if fault is None:
            return checkpoint, told
        aside = _free_name(checkpoint.with_name(_TORN + checkpoint.name))
        checkpoint.rename(aside)
        told.append(f"{checkpoint}: {fault}; set aside as {aside.name}")
    return None, told


def last_good(folder: str | Path, *, up_to: int) -> str:
    """The newest whole checkpoint of at most so many steps, in words; nothing is set aside."""
    for checkpoint in reversed(checkpoints(Path(folder))):
        if (checkpoint_step(checkpoint) or 0) <= up_to and find_fault(checkpoint) is None:
            return str(checkpoint)
    return "none yet"


def sync_files(folder: Path) -> None:
    """Bring the files that lie in a folder to the disk, and then their names."""
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        sync(path)
    sync(folder)


def rotate(folder: Path, *, keep: int | None, best: str | None = None) -> None:
    """Delete the oldest sealed checkpoints over ``keep``; the best and the newest always stay.

    By step, not by file time, which a copy of the folder changes. A deleted one is renamed first,
    so that a kill in between leaves no torn checkpoint behind.
    """
    for leftover in folder.glob(f"{_LEAVING}*"):
        shutil.rmtree(leftover)
    if not keep or keep < 1:
        return
    sealed = [path for path in checkpoints(folder) if (path / MANIFEST).is_file()]
    for path in sealed[: -max(1, keep)]:
        if best is None or path.resolve() != Path(best).resolve():
            leaving = path.with_name(_LEAVING + path.name)
            path.rename(leaving)
            shutil.rmtree(leaving)


def require_resumable(checkpoint: Path) -> None:
    """See that a checkpoint holds all that a run needs to go on to the bit.

    Raises:
        ConfigError: it was saved with ``save_only_model``.
    """
    state = (TRAINER_STATE, SCHEDULER_STATE)
    if all((checkpoint / name).is_file() for name in state) and any(
        any(checkpoint.glob(name)) for name in OPTIMIZER_STATES
    ):
        return
    raise ConfigError(
        f"{checkpoint}: holds no optimizer (save_only_model), so no run can go on from it",
        "start anew with --overwrite, or give it as --model_name_or_path",
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _free_name(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
