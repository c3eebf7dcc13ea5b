"""One run per folder: a lock that the kernel releases, however a process ends."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from alignment.errors import ConfigError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder.

    The lock file is next to the folder, so that the folder can be deleted and made again.

    Raises:
        ConfigError: Another process holds the lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    with _acquire(path, folder) as file:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        try:
            yield
        finally:
            # while the lock is held: afterwards it may be another run's file
            path.unlink(missing_ok=True)


def _acquire(path: Path, folder: Path) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            # a file that merely exists would stay after a kill -9; the kernel drops a lock
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = _holder(file.read())
            file.close()
            raise ConfigError(
                f"output_dir: {folder}: in use by {holder}",
                "wait for that run to end, or choose another output_dir",
            ) from None
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
        file.close()  # its last holder deleted the file between our open and our lock


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f"process {found['pid']} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
