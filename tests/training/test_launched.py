"""Two processes under a launcher: signals, an error on one rank, a launcher that is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest
from support import PATIENCE, REPOSITORY, write_jsonl

from alignment.errors import ConfigError
from alignment.runs.lock import locked
from alignment.training.checkpoints import find_fault, newest_whole

ROWS = [{"prompt": f"say {n}", "completion": "one two"} for n in range(8)]
#: Fails in rank 1 while the other one waits for it.
PLANTED = """\
import os, sys
def fail(event, words):
    if event == "open" and str(words[0]).endswith("/config.json"):
        from alignment.errors import ConfigError
        raise ConfigError("broken on this machine", "repair it")
if os.environ.get("RANK") == "1":
    sys.addaudithook(fail)
"""


class Launched:
    """`align sft --nproc 2` with more steps than any test waits for; or accelerate's launcher."""

    def __init__(
        self, root: Path, model: Path, *flags: str, path: str = "", launcher: Sequence[str] = ()
    ) -> None:
        self.folder = root / "out"
        data = write_jsonl(root / "rows.jsonl", ROWS)
        words = ["--model_name_or_path", str(model), "--train_data", str(data), "--use_cpu"]
        words += ["--output_dir", str(self.folder), "--report_to", "none", "--disable_tqdm", "true"]
        words += ["--per_device_train_batch_size", "1", "--logging_steps", "1"]
        words += ["--max_steps", "1000000", "--save_steps", "1000000", *flags]
        ours = [*launcher, str(REPOSITORY / "recipes" / "sft.py")]
        start = ours if launcher else ["-m", "alignment", "sft", "--nproc", "2"]
        self.process = subprocess.Popen(
            [sys.executable, *start, *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY,
            env={
                **os.environ, "PYTHONPATH": os.pathsep.join([path, str(REPOSITORY)]),
                "OMP_NUM_THREADS": "1",
            },
        )  # fmt: skip

    def wait_for_steps(self) -> list[psutil.Process]:
        """Wait until it trains; return its ranks."""
        metrics, end = self.folder / "metrics.jsonl", time.monotonic() + PATIENCE
        before = metrics.stat().st_size if metrics.exists() else 0
        while not metrics.exists() or metrics.stat().st_size <= before:
            assert time.monotonic() < end
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        return list(psutil.Process(self.process.pid).children())

    def end(self) -> tuple[int, str]:
        told, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, told

    def assert_saved(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with locked(self.folder):
                    break
            except ConfigError:
                assert time.monotonic() < end
                time.sleep(0.02)
        record = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        assert record["status"] == "interrupted"
        assert find_fault(newest_whole(self.folder)[0] or self.folder) is None


Launch: TypeAlias = Callable[..., Launched]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts runs, and kills what a failed test has left of them."""
    runs: list[Launched] = []

    def start(*args: Any, **kwargs: Any) -> Launched:
        runs.append(Launched(*args, **kwargs))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            for process in (*psutil.Process(run.process.pid).children(), run.process):
                process.kill()
            run.process.communicate()


def test_signals_to_a_launcher_and_to_its_processes(
    launch: Launch, tmp_path: Path, tiny_dir: Path
) -> None:
    run = launch(tmp_path, tiny_dir)
    ranks = run.wait_for_steps()
    for process in (*ranks, psutil.Process(run.process.pid)):
        process.terminate()  # as a scheduler does: to all, so that each rank gets two
    code, told = run.end()
    assert code == 143, told
    # which of the two came first differs
    ended = re.findall("sft: ended by SIG(?:TERM|INT) after its checkpoint was written", told)
    assert len(ended) == 1
    assert "Traceback" not in told
    run.assert_saved()

    (torn,) = run.folder.glob("checkpoint-*")
    (torn / "model.safetensors").write_bytes(b"torn")  # both must pass it over, or they hang
    run = launch(tmp_path, tiny_dir, "--resume")
    run.wait_for_steps()
    run.process.send_signal(signal.SIGHUP)
    code, told = run.end()
    assert code == 129, told
    assert "resuming from the start: no whole checkpoint" in told
    run.assert_saved()

    run = launch(tmp_path, tiny_dir, "--resume")
    ranks = run.wait_for_steps()
    run.process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=PATIENCE)
    assert not alive
    assert "sft: ended by SIGTERM after its checkpoint was written" in run.end()[1]
    run.assert_saved()


@pytest.mark.slow
def test_processes_that_accelerate_did_not_start_end_with_it(
    launch: Launch, tmp_path: Path, tiny_dir: Path
) -> None:
    words = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    run = launch(tmp_path, tiny_dir, launcher=words)
    run.wait_for_steps()
    started = psutil.Process(run.process.pid).children(recursive=True)
    assert len(started) == 3  # torch's launcher and two ranks
    run.process.kill()
    _, alive = psutil.wait_procs(started, timeout=PATIENCE)
    assert not alive
    run.end()
    run.assert_saved()


def test_an_error_on_one_rank_is_printed_and_ends_all(
    launch: Launch, tmp_path: Path, tiny_dir: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    started = time.monotonic()
    code, told = launch(tmp_path, tiny_dir, path=str(tmp_path)).end()
    assert code == 2, told
    assert "[rank1]: error: broken on this machine\n  repair it\n" in told
    assert time.monotonic() - started < 90
