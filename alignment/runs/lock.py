"""One run per folder: a lock that the kernel releases, however a process ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import ConfigError

if TYPE_CHECKING:
    from filelock import BaseFileLock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, by whatever path it is named.

    The lock file is next to the folder, so that the folder can be deleted and made again.

    Raises:
        ConfigError: Another process holds the lock, or files cannot be locked there.
    """
    place = folder.resolve()
    path = place.with_name(f".{place.name}.lock")
    lock = _acquire(path, folder)
    try:
        with suppress(OSError):  # only for the message of others; Windows lets no one else write
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        with suppress(OSError):  # while it is held: whoever waits for it then makes a new one
            path.unlink(missing_ok=True)
        lock.release()


def _acquire(path: Path, folder: Path) -> BaseFileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(path, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a moment, in case that the last holder deletes the file between our open and our lock
        lock.acquire(timeout=0.1, poll_interval=0.02)
    except Timeout:
        raise ConfigError(
            f"output_dir: {folder}: in use by {_holder(path)}",
            "wait for that run to end, or choose another output_dir",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"output_dir: {folder}: its lock file {path} cannot be locked: {error.strerror}",
            "choose an output_dir on a disk that you can write to and that has file locks",
        ) from None
    return lock


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
