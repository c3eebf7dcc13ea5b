"""Which checkpoints stay, which can be resumed, and what a kill in between leaves."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import ConfigError
from alignment.runs.files import checkpoints
from alignment.training import checkpoints as sealing
from alignment.training.checkpoints import (
    find_fault,
    last_good,
    newest_whole,
    require_resumable,
    rotate,
    seal,
)


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


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda f: (f / "manifest.json").unlink(), "it is incomplete: no manifest"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 63),
            "model.safetensors has 63 bytes instead of 64",
        ),
        (
            lambda f: (f / "optimizer.pt").write_bytes(b"y" * 64),
            "optimizer.pt was changed: its sha256 differs",
        ),
        (lambda f: (f / "scheduler.pt").unlink(), "scheduler.pt is missing"),
        (lambda f: None, None),
    ],
    ids=["manifest", "size", "content", "missing", "whole"],
)
def test_each_damage_is_named(tmp_path: Path, damage: Callable[[Path], Any], fault: str) -> None:
    folder = checkpoint(tmp_path, 1)
    damage(folder)
    assert find_fault(folder) == fault


def test_a_sealed_folder_without_the_state_of_the_trainer_is_no_checkpoint(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "trainer_state.json").unlink()
    seal(folder)
    assert find_fault(folder) == "trainer_state.json is missing"


def test_files_of_folders_and_with_any_name_are_sealed(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "global_step1").mkdir()
    (folder / "global_step1" / "模型.pt").write_bytes(b"state")
    assert find_fault(folder) == "global_step1/模型.pt is not in manifest.json"
    seal(folder)
    assert find_fault(folder) is None
    (folder / "global_step1" / "模型.pt").write_bytes(b"State")
    assert find_fault(folder) == "global_step1/模型.pt was changed: its sha256 differs"


def test_torn_checkpoints_are_set_aside_and_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    for step in (9, 10, 11, 12):
        checkpoint(tmp_path, step)
    for step in (9, 11, 12):
        (tmp_path / f"checkpoint-{step}" / "manifest.json").unlink()
    (tmp_path / "torn-checkpoint-12").mkdir()
    (tmp_path / "torn-checkpoint-12-2").mkdir()
    found, lines = newest_whole(tmp_path)
    assert found == tmp_path / "checkpoint-10"
    place = f"{tmp_path}/checkpoint"
    fault = "it is incomplete: no manifest; set aside as torn-checkpoint"
    assert lines == [f"{place}-12: {fault}-12-3", f"{place}-11: {fault}-11"]
    assert (tmp_path / "torn-checkpoint-11" / "model.safetensors").is_file()
    assert (tmp_path / "checkpoint-9").is_dir(), "older than the one that is used: not read"
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-10", [])
    (tmp_path / "checkpoint-10" / "manifest.json").unlink()
    assert newest_whole(tmp_path)[0] is None


def test_a_refused_resume_says_all_that_is_missing_and_what_to_do(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "optimizer.pt").unlink()
    (folder / "scheduler.pt").unlink()
    with pytest.raises(ConfigError) as caught:
        require_resumable(folder)
    assert (
        str(caught.value)
        .splitlines()[0]
        .endswith(
            f"{folder}: no run can resume without scheduler.pt and the optimizer (save_only_model?)"
        )
    )
    assert "start again with --overwrite, or give it as --model_name_or_path" in str(caught.value)


def test_step_0_is_a_checkpoint_too(tmp_path: Path) -> None:
    checkpoint(tmp_path, 0)
    assert last_good(tmp_path, up_to=0) == str(tmp_path / "checkpoint-0")


def test_everything_is_synced_before_the_manifest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "sub").mkdir()
    (folder / "sub" / "part.pt").write_bytes(b"x")
    (folder / "manifest.json").unlink()
    seen: list[tuple[str, bool]] = []

    def watch(path: Path) -> None:
        name = path.relative_to(tmp_path).as_posix()
        seen.append((name, (folder / "manifest.json").exists()))

    monkeypatch.setattr(sealing, "sync", watch)
    seal(folder)
    name = folder.name
    files = ("model.safetensors", "optimizer.pt", "scheduler.pt", "sub/part.pt",
             "trainer_state.json", "sub")  # fmt: skip
    assert seen == [*((f"{name}/{file}", False) for file in files), (name, True), (".", True)]
    seen.clear()
    sealing.sync_files(folder)
    assert [path.removeprefix(f"{name}/") for path, _ in seen] == [
        "manifest.json",
        *(file for file in files if "sub" not in file),
        name,
    ]
