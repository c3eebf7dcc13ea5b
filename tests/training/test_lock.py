"""One process a folder, by whatever path it is named; each error says what failed."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import UnixFileLock
from support import REPOSITORY

from alignment.errors import ConfigError
from alignment.runs.lock import locked


def test_a_folder_has_one_holder_whatever_path_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "out")  # of a run that is not there yet
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / "disk" / "out", Path("disk/../link/out"), tmp_path / "run"]
    for one in paths:
        with locked(one):
            for other in paths:
                with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on "):
                    locked(other).__enter__()
    assert not list((tmp_path / "disk").iterdir())


def test_a_lock_that_its_last_holder_deleted_meanwhile_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder ends between our open and our lock: we would hold a file that nobody can find."""
    path, opened = tmp_path / ".out.lock", []
    real = UnixFileLock._open_lock_file

    def open_lock_file(lock: UnixFileLock, *rest: Any) -> Any:  # others in each version
        found = real(lock, *rest)
        if not opened:
            path.unlink()
        opened.append(found)
        return found

    monkeypatch.setattr(UnixFileLock, "_open_lock_file", open_lock_file)
    with locked(tmp_path / "out"):
        assert path.exists()
        monkeypatch.undo()
        with pytest.raises(ConfigError, match="in use"):
            locked(tmp_path / "out").__enter__()
    assert len(opened) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_one_in_use(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(ConfigError) as refused:
        locked(tmp_path / "out").__enter__()
    assert f"cannot be locked: {os.strerror(number)}\n" in str(refused.value)
    assert "in use" not in str(refused.value)


def test_nothing_of_unix_alone_is_imported_at_start() -> None:
    """Windows has no fcntl, pwd, grp and resource."""
    program = """
import sys
for name in ("fcntl", "pwd", "grp", "resource"):
    sys.modules[name] = None
import alignment.cli, alignment.training.run, alignment.runs, alignment.data.cache, data_tools.cli
import alignment.pipeline.run, alignment.pipeline.launcher
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
