"""A run's folder: checked before a run writes into it, and kept until a new run has replaced it.

The previous run is renamed in one step, ``sft`` to ``sft.previous-1``, and deleted only once the
new run is finished. However a process ends, the previous run is whole, in one place or the other.
The caller holds the lock of the run's folder.
"""

import logging
import re
import shutil
from pathlib import Path

from alignment.disk import sync
from alignment.errors import ConfigError
from alignment.runs.files import METRICS, RECORD, checkpoints, holds_weights
from alignment.runs.record import Run, is_unfinished_record, load_run

logger = logging.getLogger(__name__)


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> Run | None:
    """Check that a run may write into a folder.

    Returns:
        The record of the run in it, to resume or to replace; None if there is none.

    Raises:
        ConfigError: The folder holds something, and neither resume nor overwrite was asked for.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ConfigError(f"output_dir: {folder}: is a file", "name a folder")
    run = load_run(folder)
    if run is None:
        if not all(map(is_unfinished_record, folder.iterdir())):
            raise ConfigError(
                f"output_dir: {folder}: not empty, and not a run of align", "choose another folder"
            )
        return None
    # a mistake in a recipe fails before step 1, and the corrected one needs no --overwrite
    has_begun = holds_results(folder) or (folder / METRICS).is_file()
    if run.status in ("failed", "interrupted") and not has_begun:
        return None
    if not resume and not overwrite:
        raise ConfigError(
            f"output_dir: {folder}: holds a {run.stage} run ({run.status})",
            "continue it with --resume, replace it with --overwrite, or choose another output_dir",
        )
    return run


def holds_results(folder: Path) -> bool:
    """Whether a run left weights or a checkpoint."""
    return holds_weights(folder) or bool(checkpoints(folder))


def set_aside(folder: Path) -> Path | None:
    """Make room for a new run: rename the run in a folder, or delete it if it has no results.

    A folder without a record is left as it is.

    Returns:
        Where the previous run is now; None if there was nothing to keep.

    Raises:
        ConfigError: The folder cannot be renamed.
    """
    # the target of a link is renamed, on its own disk; the link stays
    place = folder.resolve()
    _finish_deleting(place)
    if not (place / RECORD).is_file():
        return None
    if not holds_results(place):
        _delete(place, place)
        return None
    numbers = [int(path.name.rpartition("-")[2]) for path in previous_runs(place)]
    aside = place.with_name(f"{place.name}.previous-{max(numbers, default=0) + 1}")
    _rename(place, aside)
    return aside


def previous_runs(folder: Path) -> list[Path]:
    """The runs that were set aside for the one in a folder, oldest first."""
    place = folder.resolve()
    name = re.compile(re.escape(place.name) + r"\.previous-(\d+)")
    neighbours = place.parent.iterdir() if place.parent.is_dir() else ()
    found = [(int(match[1]), path) for path in neighbours if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(found) if (path / RECORD).is_file()]


def delete_previous_runs(folder: Path) -> None:
    """Delete the runs that were set aside for the one in a folder, if that one is finished."""
    place = folder.resolve()
    run = load_run(place)
    if run is None or run.status != "finished":
        return
    try:
        for previous in previous_runs(place):
            _delete(previous, place)
        _finish_deleting(place)
    except (OSError, ConfigError) as error:  # the new run is whole; only disk space is lost
        logger.warning("a previous run could not be deleted: %s", error)


def _delete(folder: Path, place: Path) -> None:
    """Delete a run; it is renamed first, so that a run's name never stands for half of one."""
    _rename(folder, _trash(place))
    _finish_deleting(place)


def _finish_deleting(place: Path) -> None:
    if _trash(place).exists():
        shutil.rmtree(_trash(place))


def _trash(place: Path) -> Path:
    return place.with_name(f".{place.name}.deleting")


def _rename(folder: Path, to: Path) -> None:
    try:
        folder.rename(to)
    except OSError as error:
        raise ConfigError(
            f"output_dir: {folder}: the run in it cannot be set aside: {error.strerror}",
            "choose another output_dir, or move that run away yourself",
        ) from None
    sync(folder.parent)
