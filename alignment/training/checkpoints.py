"""Checkpoints that count only when whole: sealed by a manifest, verified before they are used.

A trainer writes a folder file by file. A kill, a full disk or a power cut leaves a torn checkpoint,
which looks like the newest. So a checkpoint counts once its manifest is there, and the manifest is
written last, after every file has reached the disk.
"""

import json
import shutil
from pathlib import Path

from alignment.disk import digest_file, sync, write_text
from alignment.errors import ConfigError
from alignment.runs import (
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
    """Sync every file of a checkpoint to the disk, then write their digests into its manifest."""
    files: dict[str, dict[str, int | str]] = {}
    for path in _files(folder):
        sync(path)
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": digest_file(path)}
    # a file whose folder is not synced may lose its name in a power cut
    for path in sorted(path for path in folder.rglob("*") if path.is_dir()):
        sync(path)
    write_text(folder / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")
    sync(folder)
    sync(folder.parent)


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is whole."""
    path = folder / MANIFEST
    if not path.is_file():
        return "it is incomplete: no manifest"
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        sealed = {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    for file in _files(folder):
        if file.relative_to(folder).as_posix() not in sealed:
            return f"{file.relative_to(folder)} is not in {MANIFEST}"
    if TRAINER_STATE not in sealed:
        return f"{TRAINER_STATE} is missing"
    faults = (_fault_of(folder / name, name, *sealed[name]) for name in sealed)
    return next((fault for fault in faults if fault is not None), None)


def _fault_of(file: Path, name: str, size: int, sha256: str) -> str | None:
    """What is wrong with a sealed file, in words."""
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != size:
        return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return f"{name} was changed: its sha256 differs" if digest_file(file) != sha256 else None


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and a line for each torn one that was set aside.

    A torn checkpoint is renamed, never deleted. Older ones than the one returned are not read.
    """
    lines: list[str] = []
    for checkpoint in reversed(checkpoints(folder)):
        fault = find_fault(checkpoint)
        if fault is None:
            return checkpoint, lines
        aside = _free_name(checkpoint.with_name(_TORN + checkpoint.name))
        checkpoint.rename(aside)
        lines.append(f"{checkpoint}: {fault}; set aside as {aside.name}")
    return None, lines


def last_good(folder: str | Path, *, up_to: int) -> str:
    """The newest whole checkpoint of at most so many steps, in words; nothing is set aside."""
    for checkpoint in reversed(checkpoints(Path(folder))):
        if (checkpoint_step(checkpoint) or 0) <= up_to and find_fault(checkpoint) is None:
            return str(checkpoint)
    return "none yet"


def sync_files(folder: Path) -> None:
    """Sync the files in a folder to the disk, then their names."""
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        sync(path)
    sync(folder)


def rotate(folder: Path, *, keep: int | None, best: str | None = None) -> None:
    """Delete the oldest sealed checkpoints over ``keep``; the best and the newest always stay.

    By step, not by file time, which a copy of the folder changes. A checkpoint is renamed before it
    is deleted, so that a kill in between leaves none that is torn.
    """
    for leftover in folder.glob(f"{_LEAVING}*"):
        shutil.rmtree(leftover)
    if keep is None or keep < 1:
        return
    # one without a manifest may be in the making
    sealed = [path for path in checkpoints(folder) if (path / MANIFEST).is_file()]
    for path in sealed[:-keep]:
        if best is None or path.resolve() != Path(best).resolve():
            leaving = path.with_name(_LEAVING + path.name)
            path.rename(leaving)
            shutil.rmtree(leaving)


def require_resumable(checkpoint: Path) -> None:
    """Check that a checkpoint holds all that a run needs to resume to the same bits.

    Raises:
        ConfigError: a part is missing, as after ``save_only_model``.
    """
    parts = {
        TRAINER_STATE: (TRAINER_STATE,),
        SCHEDULER_STATE: (SCHEDULER_STATE,),
        "the optimizer": OPTIMIZER_STATES,
    }
    missing = [
        part for part, names in parts.items() if not any(any(checkpoint.glob(n)) for n in names)
    ]
    if missing:
        raise ConfigError(
            f"{checkpoint}: no run can resume without {' and '.join(missing)} (save_only_model?)",
            "start again with --overwrite, or give it as --model_name_or_path",
        )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _free_name(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
