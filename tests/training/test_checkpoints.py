"""Which checkpoints stay, which can be resumed, and what a kill in between leaves."""

import re
import shutil
from pathlib import Path

import pytest

from alignment.errors import ConfigError
from alignment.runs.files import checkpoints
from alignment.training.checkpoints import find_fault, last_good, require_resumable, rotate, seal


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        (folder / name).write_bytes(b"x" * 64)
    seal(folder)
    return folder


def test_a_kill_while_a_checkpoint_is_deleted_leaves_no_torn_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)

    def die_half_way(folder: Path) -> None:
        (Path(folder) / "optimizer.pt").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die_half_way)
        with pytest.raises(KeyboardInterrupt):
            rotate(tmp_path, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-3"]
    assert [find_fault(path) for path in checkpoints(tmp_path)] == [None, None]
    rotate(tmp_path, keep=2)  # the next save clears up what was left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize(("keep", "left"), [(None, 3), (0, 3), (-1, 3), (1, 1), (2, 2), (9, 3)])
def test_as_many_stay_as_are_asked_for(tmp_path: Path, keep: int | None, left: int) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    rotate(tmp_path, keep=keep)
    assert [path.name for path in checkpoints(tmp_path)] == [
        f"checkpoint-{step}" for step in range(4 - left, 4)
    ]


def test_the_best_stays_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    (tmp_path / "link").symlink_to(tmp_path)
    rotate(tmp_path, keep=1, best=str(tmp_path / "link" / "checkpoint-1"))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3"]


@pytest.mark.parametrize("missing", ["optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_what_a_resume_needs_must_be_there(tmp_path: Path, missing: str) -> None:
    folder = checkpoint(tmp_path, 1)
    require_resumable(folder)
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=re.escape(str(folder))):
        require_resumable(folder)


@pytest.mark.parametrize(
    "name",
    ["optimizer.bin", "global_step12", "optimizer_0", "pytorch_model_fsdp_0"],
)
def test_the_optimizers_of_deepspeed_and_fsdp_count(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "optimizer.pt").rename(folder / name)
    require_resumable(folder)


def test_a_manifest_names_every_file(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "more.safetensors").write_bytes(b"x")
    assert find_fault(folder) == "more.safetensors is not in manifest.json"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", '{"files": []}', '{"files": {"optimizer.pt": 3}}', "[" * 100_000,
     '{"files": {"optimizer.pt": {"size": 64}}}', '{"files": null}'],
    ids=range(8),
)  # fmt: skip
def test_a_malformed_manifest_is_a_fault(tmp_path: Path, text: str) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "manifest.json").write_text(text)
    assert find_fault(folder) == "manifest.json cannot be read"


def test_an_empty_manifest_seals_nothing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "manifest.json").write_text('{"files": {}}')
    assert find_fault(folder) == "model.safetensors is not in manifest.json"


def test_the_last_good_checkpoint_is_the_newest_whole_one_up_to_a_step(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-4" / "manifest.json").unlink()
    found = [last_good(tmp_path, up_to=step) for step in (1, 2, 9, 10, 99)]
    names = ["none yet", *(str(tmp_path / f"checkpoint-{step}") for step in (2, 2, 10, 10))]
    assert found == names
