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
        ConfigError: In a process that sees another folder.
    """
    if count() == 1:
        return
    from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
    from torch.distributed import barrier

    mark = folder / f".shared-{uuid.uuid4().hex}"
    if is_main():
        mark.touch()
    try:
        name, host = broadcast_object_list([mark.name, socket.gethostname()])
        if not _appears(folder / name):
            raise ConfigError(
                f"output_dir: {folder}: on {socket.gethostname()} it is not the folder that the "
                f"main process on {host} writes to",
                "choose an output_dir on a disk that all machines share",
            )
        barrier()  # before the file is deleted
    finally:
        if is_main():
            mark.unlink(missing_ok=True)


def _appears(path: Path) -> bool:
    end = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
