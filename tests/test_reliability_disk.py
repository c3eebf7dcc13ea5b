"""Disks that are full, limited, read-only or cut off: what was saved stays whole, a line says why.

Small real disks (tmpfs, ext4 on a loop device) need root; elsewhere those tests are skipped.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY
from test_faults import delete, empty, flip_a_bit, halve, zero_tail
from test_reliability import environment, sft

from alignment.disk import check_writable
from alignment.errors import ConfigError
from alignment.runs import Run, locked, set_aside
from alignment.runs.files import checkpoints
from alignment.runs.record import load_run
from alignment.training.checkpoints import find_fault, newest_whole, rotate
from alignment.training.run import main, run_stage

STEPS = ("--max_steps", "6", "--save_steps", "1")


def weights(run: Path) -> dict[str, str]:
    """Digests of what a run ends in."""
    last = checkpoints(run)[-1]
    names = [run / "model.safetensors", last / "model.safetensors", last / "optimizer.pt"]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


@pytest.fixture(scope="module")
def untouched(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the run of these tests ends in where nothing comes between."""
    folder = tmp_path_factory.mktemp("untouched")
    run_stage("sft", [*sft(folder, tiny_dir), *STEPS])
    return weights(folder / "out")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size, or changes the one that is mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0 and "remount" not in options:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def ends(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run to an error of one or two lines; the first of them."""
    with pytest.raises(SystemExit) as end:
        main("sft", words)
    told = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert end.value.code == code, told
    assert len(told) == 1
    return told[0]


@pytest.mark.parametrize("kilobytes", [1300, 1500, 1700, 1900, 2100])
def test_a_full_disk_leaves_the_checkpoints_before_it_whole(
    kilobytes: int,
    disk: Callable[[str], Path],
    tiny_dir: Path,
    untouched: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = disk(f"size={kilobytes}k")
    words = [*sft(folder, tiny_dir), *STEPS]
    told = ends(words, 1, capsys)
    assert "cannot be written: No space left on device (0.0" in told
    whole = [path for path in checkpoints(folder / "out") if find_fault(path) is None]
    assert whole, "the disk holds more than one checkpoint"
    assert len(checkpoints(folder / "out")) <= len(whole) + 1
    disk("remount,size=64m")
    run_stage("sft", [*words, "--resume"])
    assert f"resuming from {whole[-1]}" in capsys.readouterr().err
    assert weights(folder / "out") == untouched


@pytest.mark.parametrize("kilobytes", [40, 120, 200])
def test_a_limit_on_files_is_reported_as_one(
    kilobytes: int,
    tmp_path: Path,
    tiny_dir: Path,
    untouched: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*sft(tmp_path, tiny_dir), *STEPS]
    run_stage("sft", words)
    for path in checkpoints(tmp_path / "out")[2:]:
        shutil.rmtree(path)
    unfinish(tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, limits[1]))
    try:
        told = ends([*words, "--resume"], 1, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written: File too large" in told
    assert find_fault(tmp_path / "out" / "checkpoint-2") is None
    run_stage("sft", [*words, "--resume"])
    assert weights(tmp_path / "out") == untouched


def unfinish(folder: Path) -> None:
    """Make a finished run one that was killed."""
    run = load_run(folder)
    assert run
    run.status = "running"
    run.write(folder)


def test_a_disk_that_turns_read_only_ends_the_run_in_words(
    monkeypatch: pytest.MonkeyPatch,
    disk: Callable[[str], Path],
    tiny_dir: Path,
    untouched: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = disk("size=64m")
    words = [*sft(folder.parent, tiny_dir), *STEPS]
    words[words.index("--output_dir") + 1] = str(folder)  # its lock, always open, lies beside it

    def rotate_then_turn(run: Path, **how: Any) -> None:
        rotate(run, **how)
        if (run / "checkpoint-2").exists():
            disk("remount,ro,size=64m")

    with monkeypatch.context() as planted:
        planted.setattr("alignment.training.guard.rotate", rotate_then_turn)
        told = ends(words, 1, capsys)
    assert "cannot be written: Read-only file system" in told
    assert find_fault(folder / "checkpoint-2") is None
    assert "output_dir" in ends([*words, "--resume"], 2, capsys)
    disk("remount,rw,size=64m")
    run_stage("sft", [*words, "--resume"])
    assert weights(folder) == untouched


def test_a_folder_that_may_not_be_written_is_reported_at_once(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sft(tmp_path, tiny_dir)
    words[words.index("--output_dir") + 1] = "/proc/align/out"  # nobody may, not even root
    assert ends(words, 2, capsys).startswith("error: output_dir: /proc/align/out: cannot be writ")


@pytest.fixture(scope="module")
def saved(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints 1 to 6, to be copied."""
    folder = tmp_path_factory.mktemp("saved")
    run_stage("sft", [*sft(folder, tiny_dir), *STEPS])
    unfinish(folder / "out")
    return folder


@pytest.mark.parametrize("harm", [delete, empty, halve, zero_tail, flip_a_bit])
def test_harm_to_any_file_of_a_real_checkpoint_is_found(
    harm: Callable[[Path], None], saved: Path, tmp_path: Path
) -> None:
    names = sorted(p.name for p in (saved / "out" / "checkpoint-6").iterdir())
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt"} < set(names)
    for name in names:
        run = tmp_path / name
        for step in (5, 6):
            place = f"checkpoint-{step}"
            shutil.copytree(saved / "out" / place, run / place)
        harm(run / "checkpoint-6" / name)
        found, told = newest_whole(run)
        assert found == run / "checkpoint-5"
        assert name in told[0] or "never completed" in told[0]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_resume_takes_the_older_one_and_ends_the_same(
    name: str,
    saved: Path,
    tiny_dir: Path,
    tmp_path: Path,
    untouched: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(saved, tmp_path / "run")
    flip_a_bit(tmp_path / "run" / "out" / "checkpoint-6" / name)
    run_stage("sft", [*sft(tmp_path / "run", tiny_dir), *STEPS, "--resume"])
    told = capsys.readouterr().err
    assert f"checkpoint-6: {name} was changed: its sha256 differs; set aside as torn-" in told
    assert "checkpoint-5" in told
    assert weights(tmp_path / "run" / "out") == untouched


def test_the_best_and_the_newest_checkpoint_stay(tmp_path: Path, tiny_dir: Path) -> None:
    """A rate so high that the held-out loss only rises: the first checkpoint is the best."""
    words = [*sft(tmp_path, tiny_dir), *STEPS, "--eval_data", str(tmp_path / "data.jsonl")]
    words += ["--eval_strategy", "steps", "--eval_steps", "1", "--load_best_model_at_end"]
    words += ["--save_total_limit", "1", "--learning_rate", "1", "--lr_scheduler_type", "constant"]
    run_stage("sft", words)
    left = {path.name for path in checkpoints(tmp_path / "out")}
    assert left == {"checkpoint-1", "checkpoint-6"}


def cut_power(model: Path, place: Path, options: str, *moments: str) -> list[dict[str, Any]]:
    """What each cut left and what came of it, from a process that can fork; see power_cut.py."""
    _need_loop_devices(place)
    path = f"{environment()['PYTHONPATH']}{os.pathsep}{REPOSITORY / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(REPOSITORY / "tests" / "power_cut.py"),
         str(model), str(place / "cuts"), options, *moments],
        env={**environment(), "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *cuts, counted = [json.loads(line) for line in done.stdout.splitlines() if line[0] == "{"]
    assert counted["fsyncs"] > 100, "the moments lie within the run"
    return cuts


def _need_loop_devices(place: Path) -> None:
    (place / "probe").mkdir()
    with (place / "probe.img").open("wb") as file:
        file.truncate(8 << 20)
    for words in (["mkfs.ext4", "-q", "probe.img"], ["mount", "-o", "loop", "probe.img", "probe"]):
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=place)
        if done.returncode != 0:
            pytest.skip(f"no ext4 can be mounted here: {done.stderr.strip()}")
    subprocess.run(["umount", str(place / "probe")], check=True)


def holds(cuts: list[dict[str, Any]], count: int) -> None:
    """Every run was cut, lost what was not synced, went on, and ended in the same bits."""
    assert len(cuts) == count
    for cut in cuts:
        assert cut["ended"], cut
        assert cut["controls"][0] == 5000, cut
        assert (cut["resumed"], cut["same"]) == (0, True), cut
        assert len(cut["torn"]) <= 1, cut
    assert any(cut["controls"][1] == 0 for cut in cuts), "a cut must lose something"


def test_a_power_cut_on_a_real_disk_costs_one_checkpoint_at_most(
    tmp_path: Path, tiny_dir: Path
) -> None:
    cuts = cut_power(tiny_dir, tmp_path, "commit=300", "30", "61", "checkpoint-3/optimizer.pt")
    holds(cuts, 3)
    assert cuts[0]["whole"] == ["checkpoint-1"]
    assert cuts[1]["whole"] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


@pytest.mark.slow
@pytest.mark.parametrize("options", ["commit=300,data=ordered", "commit=300,data=writeback"])
def test_power_cuts_at_many_moments(options: str, tmp_path: Path, tiny_dir: Path) -> None:
    """All of one save, file by file and sync by sync; the end of the run; some in between."""
    syncs = [*range(42, 64, 2), 1, 4, 90, 150, 163, 167]
    names = ("model.safetensors", "optimizer.pt", "trainer_state.json", "manifest.json")
    seen = [f"checkpoint-{step}/{name}" for step in (1, 5) for name in names]
    holds(cut_power(tiny_dir, tmp_path, options, *map(str, syncs), *seen), len(syncs) + len(seen))


@pytest.mark.slow
def test_without_fsync_a_power_cut_would_cost_more(tmp_path: Path, tiny_dir: Path) -> None:
    """That these disks do forget: the same moment, all syncs left out."""
    (cut,) = cut_power(tiny_dir, tmp_path, "commit=300", "unsynced", "61")
    assert cut["ended"]
    assert cut["whole"] == []


def test_a_check_of_the_folder_leaves_no_file_even_if_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that is written on trial has no name, at least on Linux."""
    seen: list[Path] = []
    real = tempfile.TemporaryFile

    def watched(**kwargs: Any) -> Any:
        file = real(**kwargs)
        seen.extend(tmp_path.iterdir())
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    check_writable(tmp_path / "out")
    assert not seen


@pytest.mark.parametrize("name", ["n" * 241, "模" * 81, "n" * 300], ids=["241", "243", "300"])
def test_a_name_that_leaves_no_room_for_the_names_next_to_it_is_refused(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has more than 240 bytes"):
        check_writable(tmp_path / name / "out")
    folder = tmp_path / ("n" * 240)
    check_writable(folder)
    record = Run("sft", "n", "f", status="interrupted")
    with locked(folder):
        record.write(folder)
        (folder / "checkpoint-1").mkdir()
        assert set_aside(folder)
