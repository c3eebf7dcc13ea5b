"""A lock that was deleted while a process waited for it is no lock."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import ConfigError
from alignment.runs import lock
from alignment.runs.lock import locked


def test_a_lock_that_its_last_holder_deleted_meanwhile_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder ends between our open and our lock: we would hold a file that nobody can find."""
    path = tmp_path / ".out.lock"
    real, calls = fcntl.flock, []

    def flock(file: Any, operation: int) -> None:
        if not calls:
            path.unlink()
        calls.append(os.fstat(file.fileno()).st_ino)
        real(file, operation)

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with locked(tmp_path / "out"):
        assert len(calls) == 2
        assert path.stat().st_ino == calls[1]
        monkeypatch.undo()
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on "):
            locked(tmp_path / "out").__enter__()
    assert not path.exists()
