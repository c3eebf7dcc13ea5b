"""Find out at the start whether all processes see the folder that the main one writes to."""

import socket
import time
import uuid
from pathlib import Path

from alignment.errors import ConfigError
from alignment.processes import count, is_main

#: Seconds after which a new file is visible on a network file system.
_PATIENCE = 10.0


def require_shared(folder: Path) -> None:
    """Check that a folder is the same one in all processes, on whatever machine they run.

    Else the others would find no checkpoint, or an older one, after hours of training.

    Raises:
        ConfigError: A process sees another folder; raised in all of them, so that none waits.
    """
    if count() == 1:
        return
    from accelerate.utils import (  # type: ignore[import-untyped]
        broadcast_object_list,
        gather_object,
    )

    mark = folder / f".shared-{uuid.uuid4().hex}"
    if is_main():
        mark.touch()
    here = socket.gethostname()
    try:
        name, main_host = broadcast_object_list([mark.name, here])
        elsewhere = gather_object([None if _appears(folder / name) else here])
    finally:
        if is_main():
            mark.unlink(missing_ok=True)
    hosts = sorted({host for host in elsewhere if host})
    if hosts:
        raise ConfigError(
            f"output_dir: {folder}: on {', '.join(hosts)} it is not the folder that the main "
            f"process on {main_host} writes to",
            "choose an output_dir on a disk that all machines share",
        )


def _appears(path: Path) -> bool:
    end = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
