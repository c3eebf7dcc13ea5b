"""`align run` as a user starts it, ended in every way: what was done stays, all else comes out.

Each run is a process of its own, as are its stages; what they end in is compared to the bit with a
pipeline that nobody touched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import fingerprints
from support import write_jsonl
from test_reliability import environment

from alignment.errors import ConfigError
from alignment.runs.folder import check_output, delete_previous_runs, previous_runs, set_aside
from alignment.runs.lock import locked
from alignment.runs.record import Run, load_run
from alignment.training.checkpoints import find_fault, newest_whole

PAIRS = [{"prompt": f"say {sign}", "chosen": sign, "rejected": "no"} for sign in "abcdef四五六七"]
STEPS = 25
RECIPE = f"""\
max_steps: {STEPS}
save_steps: 1
save_total_limit: 3
logging_steps: 1
learning_rate: 1e-3
per_device_train_batch_size: 2
report_to: none
use_cpu: true
disable_tqdm: true
activation_checkpointing: false
"""


def make_pipeline(root: Path, model: Path) -> Path:
    """A pipeline of two stages in a folder."""
    data = write_jsonl(root / "pairs.jsonl", PAIRS)
    first = f"model_name_or_path: {model}\ntrain_data: {data}\n"
    (root / "sft.yaml").write_text(RECIPE + first, encoding="utf-8")
    (root / "dpo.yaml").write_text(f"{RECIPE}train_data: {data}\n", encoding="utf-8")
    (root / "pipeline.yaml").write_text(
        f"output_dir: {root}/runs\nstages:\n"
        "  sft: {config: sft.yaml}\n  dpo: {config: dpo.yaml, needs: {model: sft}}\n"
    )
    return root


#: Seconds after which something hangs, however slow the machine.
PATIENCE = 600
pytestmark = pytest.mark.timeout(3 * PATIENCE)


#: Put before every process on its PYTHONPATH; holds a stage where it makes the folder HOLD, until
#: a signal comes. So a test cannot miss the steps in which it is to end the stage.
HOLDING = """\
import os, select, signal, sys
def hold(event, words):
    ours = event == "os.mkdir" and str(words[0]).endswith(os.environ["HOLD"])
    if ours and not os.path.exists(os.environ["HELD"]):  # the folder is asked for several times
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        open(os.environ["HELD"], "w").close()
        select.select([read], [], [])
if "HOLD" in os.environ:
    sys.addaudithook(hold)
"""


def start(root: Path, *flags: str, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alignment", "run", str(root / "pipeline.yaml"), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environment(), **extra}, start_new_session=True,
    )  # fmt: skip


def run(root: Path, *flags: str, **extra: str) -> tuple[int, str]:
    process = start(root, *flags, **extra)
    told, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, told


def start_and_hold(root: Path, place: str) -> subprocess.Popen[str]:
    """Start the pipeline and wait until a stage of it is about to write the checkpoint ``place``.

    The stage goes on at the first signal that it gets.
    """
    planted, held = root / "planted", root / "held"
    planted.mkdir(exist_ok=True)
    (planted / "sitecustomize.py").write_text(HOLDING)
    held.unlink(missing_ok=True)
    path = f"{planted}{os.pathsep}{environment()['PYTHONPATH']}"
    process = start(root, HOLD=place, HELD=str(held), PYTHONPATH=path)
    end = time.monotonic() + PATIENCE
    while not held.exists():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def wait_for_the_stage(stage: Path) -> None:
    """Wait until nobody holds the folder of a stage whose parent was killed."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with locked(stage):
                return
        except ConfigError:
            assert time.monotonic() < end
            time.sleep(0.02)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """A pipeline that ran once without a fault."""
    root = make_pipeline(tmp_path_factory.mktemp("whole"), tiny_dir)
    code, told = run(root)
    assert code == 0, told
    return root


def test_a_pipeline_that_is_ended_in_every_way_comes_out_the_same(
    whole: Path, tmp_path: Path, tiny_dir: Path
) -> None:
    root = make_pipeline(tmp_path, tiny_dir)
    sft, dpo = root / "runs" / "sft", root / "runs" / "dpo"

    process = start_and_hold(root, "sft/checkpoint-3")
    process.kill()  # `align run` alone: its stage hears of it, saves and ends
    told, _ = process.communicate(timeout=PATIENCE)
    wait_for_the_stage(sft)
    assert json.loads((sft / "run.json").read_text())["status"] == "interrupted", told
    assert "sft: ended by SIGTERM after its checkpoint was written" in told
    assert find_fault(newest_whole(sft)[0] or sft) is None

    process = start_and_hold(root, "dpo/checkpoint-3")
    before = content(sft)
    os.killpg(process.pid, signal.SIGKILL)  # all of it, in the middle of the second stage
    told, _ = process.communicate(timeout=PATIENCE)
    assert "sft: resume (interrupted)" in told

    process = start_and_hold(root, "dpo/checkpoint-6")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C: to both
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, told
    assert "sft: skip (up to date)" in told
    assert "dpo: resume (running)" in told
    assert "continue with --resume" in told
    assert json.loads((dpo / "run.json").read_text())["status"] == "interrupted"

    process = start_and_hold(root, "dpo/checkpoint-10")
    process.terminate()  # to `align run` alone
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, told
    assert find_fault(newest_whole(dpo)[0] or dpo) is None

    code, told = run(root)
    assert code == 0, told
    assert content(sft) == before, "a finished stage is not touched again"
    for stage in ("sft", "dpo"):
        ours, theirs = (path / "runs" / stage for path in (root, whole))
        assert fingerprints(ours) == fingerprints(theirs)
        rows = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert run(root, "--dry-run")[1].count("skip (up to date)") == 2


#: Put before a stage on its PYTHONPATH; ends it where it makes its folder anew.
PLANTED = """\
import os, signal, sys
def watch(event, words):
    if event == "os.mkdir" and str(words[0]).endswith("/runs/sft"):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


def test_a_stale_run_is_kept_until_the_new_one_is_finished(whole: Path, tmp_path: Path) -> None:
    root = make_pipeline(tmp_path, whole.parent)
    subprocess.run(["cp", "-r", str(whole / "runs"), str(root / "runs")], check=True)
    for name in ("sft.yaml", "dpo.yaml"):
        (root / name).write_bytes((whole / name).read_bytes())
    sft, previous = root / "runs" / "sft", root / "runs" / "sft.previous-1"
    before = content(sft)

    broken = ("--set", "sft.learning_rate=1e39", "--only", "sft")
    code, told = run(root, *broken)
    assert code == 1, told
    assert "sft: run (learning_rate 0.001 -> 1e+39)" in told
    assert f"{sft}: the run in it is kept as sft.previous-1 until this one is finished" in told
    assert f"the previous run is unchanged, in {previous}" in told
    assert content(previous) == before

    assert run(root, *broken)[0] == 1
    assert content(previous) == before, "the run that failed left nothing to be kept beside it"
    assert previous_runs(sft) == [previous]

    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    path = f"{tmp_path / 'planted'}{os.pathsep}{environment()['PYTHONPATH']}"
    better = ("--set", "sft.learning_rate=1e-2", "--only", "sft")
    code, told = run(root, *better, PYTHONPATH=path)
    assert code == 137, told
    assert not sft.exists()
    assert content(previous) == before

    code, told = run(root, *better)
    assert code == 0, told
    assert not previous_runs(sft)
    found = load_run(sft)
    assert found
    assert found.status == "finished"
    assert names(sft.parent) == ["dpo", "sft"]


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Work in a fork that is killed where it touches the disk for the ``number + 1``-th time."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0
        return os.WIFSIGNALED(status)
    count = 0

    def watch(event: str, words: tuple[object, ...]) -> None:
        nonlocal count
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            count += 1
            if count > number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    work()
    os._exit(0)


def replace(folder: Path, mark: str) -> None:
    """What a stage does with its folder, without what it does in between."""
    check_output(folder, resume=False, overwrite=True)
    set_aside(folder)
    record = Run("sft", folder.name, mark)
    record.write(folder)
    (folder / "model.safetensors").write_text(mark)
    record.status = "finished"
    record.write(folder)
    delete_previous_runs(folder)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_kill_at_any_moment_leaves_a_whole_run(tmp_path: Path) -> None:
    """Each moment at which a folder, a file or a name is made, moved or deleted."""
    for number in range(200):
        folder = tmp_path / str(number) / "sft"
        replace(folder, "first")
        (folder / "checkpoint-1").mkdir()
        (folder / "checkpoint-1" / "optimizer.pt").write_text("first")
        before = content(folder)
        killed = killed_at(number, lambda folder=folder: replace(folder, "second"))
        places = [place for place in (folder, *previous_runs(folder)) if place.exists()]
        whole = [place for place in places if content(place) == before]
        found = load_run(folder)
        done = found is not None and (found.fingerprint, found.status) == ("second", "finished")
        assert whole or done, number
        replace(folder, "third")
        assert not previous_runs(folder)
        assert names(folder.parent) == ["sft"]
        if not killed:
            break
    assert not killed
    assert number > 20


def test_previous_runs_are_numbered_and_found_by_their_record(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    for name in ("sft.previous-1", "sft.previous-x", "other.previous-1"):
        (tmp_path / name).mkdir()  # not ours: no record
    for mark in ("a", "b"):
        record = Run("sft", "sft", mark, status="interrupted")
        record.write(folder)
        (folder / "checkpoint-2").mkdir()
        if mark == "a":
            (tmp_path / "sft.previous-1").rmdir()
        set_aside(folder)
    assert [path.name for path in previous_runs(folder)] == ["sft.previous-1", "sft.previous-2"]
    record.write(folder)
    delete_previous_runs(folder)
    assert len(previous_runs(folder)) == 2, "nothing is deleted before the new run is finished"
    record.status = "finished"
    record.write(folder)
    delete_previous_runs(folder)
    assert names(tmp_path) == ["other.previous-1", "sft", "sft.previous-x"]


def test_a_number_is_not_used_again_and_a_name_is_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "v1.5"
    for mark in range(3):
        Run("sft", "v1.5", f"{mark}", status="interrupted").write(folder)
        (folder / "checkpoint-2").mkdir()
        set_aside(folder)
    shutil.rmtree(tmp_path / "v1.5.previous-2")
    shutil.rmtree(tmp_path / "v1.5.previous-1")
    Run("sft", "v1x5", "similar").write(tmp_path / "v1x5.previous-9")
    Run("sft", "v1.5", "last", status="interrupted").write(folder)
    (folder / "checkpoint-2").mkdir()
    assert set_aside(folder) == tmp_path / "v1.5.previous-4"
    assert [path.name for path in previous_runs(folder)] == ["v1.5.previous-3", "v1.5.previous-4"]


def test_a_link_to_another_disk_stays_a_link(tmp_path: Path) -> None:
    far = tmp_path / "far" / "sft"
    replace(far, "first")
    link = tmp_path / "sft"
    link.symlink_to(far)
    set_aside(link)
    Run("sft", "sft", "second").write(link)
    assert link.is_symlink()
    assert [path.name for path in previous_runs(link)] == ["sft.previous-1"]
    assert load_run(far)
