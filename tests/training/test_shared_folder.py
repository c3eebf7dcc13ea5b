"""A folder that only the main process's machine has, and what the main process decides for all."""

from pathlib import Path
from typing import Any

import pytest

from alignment.errors import ConfigError
from alignment.training import shared_folder
from alignment.training.shared_folder import require_shared


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(shared_folder, "_PATIENCE", 0.2)
    monkeypatch.setattr("torch.distributed.barrier", lambda: None)
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda _: [".shared-x", "first"])


def test_another_folder_of_the_same_path_is_reported(second_of_two: None, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")  # of an earlier run, copied to this machine
    with pytest.raises(ConfigError) as refused:
        require_shared(tmp_path)
    assert "is not the folder that the main process on first writes to" in str(refused.value)
    (tmp_path / ".shared-x").touch()
    require_shared(tmp_path)


def test_the_main_process_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen: list[Path] = []

    def broadcast(values: list[Any]) -> list[Any]:
        seen.extend(tmp_path.iterdir())
        return values

    monkeypatch.setattr("accelerate.utils.broadcast_object_list", broadcast)
    monkeypatch.setattr("torch.distributed.barrier", lambda: None)
    require_shared(tmp_path)
    assert len(seen) == 1
    assert not list(tmp_path.iterdir())
