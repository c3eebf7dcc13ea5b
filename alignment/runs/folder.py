"""The run that a new one replaces: set aside whole, deleted only once the new one is finished.

A folder is renamed in one step, so that whatever ends a process finds the former run either in its
place or beside it, as ``sft.former-1`` beside ``sft``, and never half of it. The caller holds the
lock of the run's folder.
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


def set_aside(folder: Path) -> Path | None:
    """Make room for a new run; where the former one lies now, None where there was nothing to keep.

    Only a folder with a record is ever touched. A run without weights and without checkpoints is
    deleted.

    Raises:
        ConfigError: the folder cannot be renamed.
    """
    place = folder.resolve()
    _finish_deleting(place)
    if not (place / RECORD).is_file():
        return None
    if not holds_results(place):
        _delete(place, place)
        return None
    numbers = [int(path.name.rpartition("-")[2]) for path in formers(place)]
    aside = place.with_name(f"{place.name}.former-{max(numbers, default=0) + 1}")
    _rename(place, aside)
    return aside


def drop_formers(folder: Path) -> None:
    """Delete what was set aside for the run in a folder, once that one is finished."""
    place = folder.resolve()
    run = load_run(place)
    if run is None or run.status != "finished":
        return
    try:
        for former in formers(place):
            _delete(former, place)
        _finish_deleting(place)
    except (OSError, ConfigError) as error:  # the new run is whole; disk space is all that is lost
        logger.warning("a former run could not be deleted: %s", error)


def formers(folder: Path) -> list[Path]:
    """The runs that were set aside for the one in a folder, oldest first."""
    place = folder.resolve()
    name = re.compile(re.escape(place.name) + r"\.former-(\d+)")
    beside = place.parent.iterdir() if place.parent.is_dir() else ()
    found = [(int(match[1]), path) for path in beside if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(found) if (path / RECORD).is_file()]


def holds_results(folder: Path) -> bool:
    """Whether a run left weights or a checkpoint."""
    return holds_weights(folder) or bool(checkpoints(folder))


def _delete(folder: Path, place: Path) -> None:
    """Delete a folder; it has no name of a run any more by the time that half of it is left."""
    _rename(folder, _leaving(place))
    _finish_deleting(place)


def _finish_deleting(place: Path) -> None:
    if _leaving(place).exists():
        shutil.rmtree(_leaving(place))


def _leaving(place: Path) -> Path:
    return place.with_name(f".{place.name}.leaving")


def _rename(folder: Path, to: Path) -> None:
    try:
        folder.rename(to)
    except OSError as error:
        raise ConfigError(
            f"output_dir: {folder}: the run in it cannot be set aside: {error.strerror}",
            "choose another output_dir, or move that run away yourself",
        ) from None
    sync(folder.parent)


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> Run | None:
    """See that a run may write here; the record of the run to resume, where there is one.

    Raises:
        ConfigError: the folder holds something and neither resume nor overwrite was asked for.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ConfigError(f"output_dir: {folder}: is a file", "name a folder")
    run = load_run(folder)
    if run is None:
        if not all(map(is_unfinished_record, folder.iterdir())):
            raise ConfigError(
                f"output_dir: {folder}: not empty, and no run of ours", "choose another folder"
            )
        return None
    if run.status == "failed" and not (holds_results(folder) or (folder / METRICS).is_file()):
        return None
    if not resume and not overwrite:
        raise ConfigError(
            f"output_dir: {folder}: holds a {run.stage} run ({run.status})",
            "go on with --resume, start anew with --overwrite, or choose another output_dir",
        )
    return run
