"""A folder that only the main process's machine has, and what the main process decides for all."""

from pathlib import Path
from typing import Any

import pytest

from alignment.errors import ConfigError
from alignment.training import shared_folder
from alignment.training.shared_folder import require_shared


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(shared_folder, "_PATIENCE", 0.2)
    monkeypatch.setattr("socket.gethostname", lambda: "second")
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda _: [".shared-x", "first"])
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: [None, *mine])


@pytest.mark.usefixtures("two_processes")
def test_another_folder_of_the_same_path_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "run.json").write_text("{}")  # of an earlier run, copied to this machine
    with pytest.raises(ConfigError) as refused:
        require_shared(tmp_path)
    assert "on second it is not the folder that the main process on first" in str(refused.value)
    (tmp_path / ".shared-x").touch()
    require_shared(tmp_path)


@pytest.mark.usefixtures("two_processes")
def test_the_main_process_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda values: values)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: [*mine, "third"])
    with pytest.raises(ConfigError, match="on third it is not the folder"):
        require_shared(tmp_path)


@pytest.mark.usefixtures("two_processes")
def test_the_main_process_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def broadcast(values: list[Any]) -> list[Any]:
        seen.extend(tmp_path.iterdir())
        return values

    monkeypatch.setattr("accelerate.utils.broadcast_object_list", broadcast)
    require_shared(tmp_path)
    assert len(seen) == 1
    assert not list(tmp_path.iterdir())
