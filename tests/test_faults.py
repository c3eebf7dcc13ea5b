"""kill -9 each stage, resume, compare with an untouched run; the long form is in benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import PATIENCE, REPOSITORY, write_jsonl

from alignment.registry import STAGES
from alignment.training.checkpoints import find_fault, newest_whole, rotate, seal


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_killed_runs_go_on_to_the_same_bits(lora: bool, tmp_path: Path, tiny_dir: Path) -> None:
    """In a process of its own: the fork server needs a parent with a single thread.

    Every stage is killed once; over all stages, each moment of a kill comes four times.
    """
    program = (
        "import sys, kills; from pathlib import Path; kills.preload()\n"
        "for number, stage in enumerate(kills.STAGES):\n"
        f"    root = Path({str(tmp_path)!r}, stage); root.mkdir()\n"
        f"    total = kills.measure(stage, Path({str(tiny_dir)!r}), root, lora={lora}, kills=1,\n"
        f"                          seed=10 * number + {int(lora)})\n"
        "    assert not total['crashed'] and not total['different'], (stage, total)\n"
        "    print(stage, total['killed'])\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'benchmarks' / 'faults'}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-len(STAGES) :] == [f"{stage} 1" for stage in STAGES]


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "below").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    (folder / "optimizer.pt").write_bytes(b"momentum" * 10)
    (folder / "below" / "shard").write_bytes(b"part")
    (folder / "trainer_state.json").write_text("{}")
    seal(folder)
    return folder


FILES = ["model.safetensors", "optimizer.pt", "below/shard", "manifest.json"]


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_tail(path: Path) -> None:
    data = path.read_bytes()
    tail = len(data) // 4  # a zip ends in zeros by itself
    path.write_bytes(data[:-tail] + bytes(tail))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [delete, empty, halve, zero_tail, flip_a_bit])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_found_and_an_older_checkpoint_taken(
    name: str, harm: type[object], tmp_path: Path
) -> None:
    good, bad = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    harm(bad / name)
    assert find_fault(bad)
    found, told = newest_whole(tmp_path)
    assert found == good
    assert len(told) == 1
    assert "set aside as torn-checkpoint-10" in told[0]
    assert (tmp_path / "torn-checkpoint-10").is_dir(), "set aside, never deleted"
    assert newest_whole(tmp_path) == (good, [])


def test_rotation_goes_by_step_and_keeps_the_best(tmp_path: Path) -> None:
    for step in (2, 10, 9, 30):
        checkpoint(tmp_path, step)
    for age, step in enumerate((30, 10, 9, 2)):  # as a copy of the folder leaves them
        os.utime(tmp_path / f"checkpoint-{step}", (age, age))
    (tmp_path / "checkpoint-31").mkdir()  # not sealed yet: neither counted nor deleted
    rotate(tmp_path, keep=2, best=str(tmp_path / "checkpoint-2"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["checkpoint-10", "checkpoint-2", "checkpoint-30", "checkpoint-31"]
    rotate(tmp_path, keep=None)
    assert len(list(tmp_path.iterdir())) == 4


ROW = {"prompt": "say one", "completion": "one"}


def start(folder: Path, model: Path, *flags: str) -> subprocess.Popen[str]:
    """A stage as a user starts it, slow enough to be met at work."""
    data = write_jsonl(folder / "data.jsonl", [ROW] * 64)
    words = ["--model_name_or_path", str(model), "--train_data", str(data), "--use_cpu"]
    words += ["--output_dir", str(folder / "out"), "--report_to", "none", "--max_steps", "100000"]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "alignment", "sft", *words, *flags],
        cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_steps(folder: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not (folder / "out" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run never logged a step"
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_whole_checkpoint(
    number: signal.Signals, code: int, tmp_path: Path, tiny_dir: Path
) -> None:
    process = start(tmp_path, tiny_dir, "--logging_steps", "1", "--disable_tqdm", "true")
    wait_for_steps(tmp_path, process)
    second = start(tmp_path, tiny_dir, "--resume")
    _, told = second.communicate(timeout=PATIENCE)
    assert second.returncode == 2, told[-2000:]
    assert f"in use by process {process.pid} on " in told
    process.send_signal(number)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, told[-2000:]
    assert "continue with --resume" in told
    (saved,) = (tmp_path / "out").glob("checkpoint-*")
    assert find_fault(saved) is None
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"
    assert not list(tmp_path.glob(".*.lock"))


def test_the_first_number_that_is_not_finite_ends_the_run(tmp_path: Path, tiny_dir: Path) -> None:
    flags = ("--learning_rate", "1e38", "--max_grad_norm", "0", "--save_steps", "1")
    process = start(tmp_path, tiny_dir, *flags)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, told[-2000:]
    assert "a number that is not finite in " in told
    assert "Traceback" not in told
    assert "the last good checkpoint is " in told
