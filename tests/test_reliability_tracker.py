"""W&B unreachable, silent or broken: the run trains, keeps its metrics and prints one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE
from test_reliability import environment, sft
from wandb_server import Server, wandb_server

from alignment.runs.record import Run, load_run
from alignment.trackers import wandb as wandb_setup
from alignment.trackers.wandb import prepare_wandb
from alignment.training.run import run_stage


class Broken(BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def refused() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as hole:  # accepts connections, answers nothing
        yield f"http://127.0.0.1:{hole.getsockname()[1]}"


@contextmanager
def broken() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def online(own_wandb: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with a key, which would go online."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb_setup, "PROBE_SECONDS", 1.0)


@pytest.mark.parametrize(
    ("server", "why"),
    [(refused, "cannot be reached"), (silent, "did not answer in 1 s"), (broken, "answers 500")],
)
def test_a_server_that_fails_means_offline_in_one_line(
    server: Any, why: str, online: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with server() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        begin = time.monotonic()
        printed = prepare_wandb(Run("sft", "sft", "f"), group=None, folder=tmp_path)
        assert time.monotonic() - begin < 30
    assert printed
    assert why in printed
    assert "wandb sync" in printed
    assert os.environ["WANDB_MODE"] == "offline"


def test_a_run_trains_and_resumes_in_one_offline_run(
    online: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import wandb

    words = sft(tmp_path, tiny_dir, "--save_steps", "1", "--max_steps", "3")
    words[words.index("--report_to") + 1] = "wandb"
    with silent() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        run_stage("sft", words)
    assert capsys.readouterr().out.count("W&B: ") == 1
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 3]
    first = load_run(tmp_path / "out")
    assert first
    wandb.finish()
    first.status = "running"  # as a kill leaves it
    first.write(tmp_path / "out")
    monkeypatch.delenv("WANDB_RUN_ID")  # a process of its own would not have it
    run_stage("sft", [*words, "--resume"])
    again = load_run(tmp_path / "out")
    assert again
    assert again.tracker_id == first.tracker_id == os.environ["WANDB_RUN_ID"]
    wandb.finish()
    folders = sorted((tmp_path / "out" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    # of two that start in the same second W&B adds a number to the later one
    name = rf"offline-run-\d+_\d+-{first.tracker_id}(-1)?"
    assert all(re.fullmatch(name, path.name) for path in folders)


#: So many that a test meets the run at work, also on a loaded machine.
STEPS = 100


def start_online(
    folder: Path, model: Path, address: str, *flags: str, init_timeout: int = 120
) -> subprocess.Popen[str]:
    """A run as a user starts it, with the test's server and a short time to finish."""
    words = sft(folder, model, "--max_steps", str(STEPS), *flags)
    words[words.index("--report_to") + 1] = "wandb"
    return subprocess.Popen(
        [sys.executable, "-m", "alignment", "sft", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=wandb_environment(address, init_timeout), cwd=folder,
    )  # fmt: skip


def wandb_environment(address: str, init_timeout: int = 120) -> dict[str, str]:
    kept = {key: value for key, value in environment().items() if not key.startswith("WANDB")}
    return {
        **kept,
        "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": address,
        "WANDB_INIT_TIMEOUT": str(init_timeout), "WANDB_FINISH_TIMEOUT": "3",
    }  # fmt: skip


def logged(folder: Path) -> list[dict[str, Any]]:
    path = folder / "out" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if "loss" in row]


def wait_until(what: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "the run never got there"
        time.sleep(0.02)


def sent(server: Server, run: str) -> list[tuple[int, float]]:
    """Step and loss of every training row that arrived, in the order of W&B's steps."""
    rows = [row for _, row in sorted(server.rows[run].items()) if "train/loss" in row]
    return [(row["train/global_step"], row["train/loss"]) for row in rows]


def synced(words: list[str], folder: Path) -> Server:
    """A server that works, after `wandb sync` has sent the runs to it."""
    with wandb_server() as server:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", *words], capture_output=True, text=True,
            check=False, env=wandb_environment(server.address), cwd=folder, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return server


@pytest.mark.parametrize(
    "fault",
    [
        "hangs",
        pytest.param("breaks", marks=pytest.mark.slow),
        pytest.param("is gone", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_fails_in_a_run_holds_nothing_up_and_loses_nothing(
    fault: str, tmp_path: Path, tiny_dir: Path
) -> None:
    with wandb_server() as server:
        process = start_online(tmp_path, tiny_dir, server.address)
        wait_until(lambda: len(logged(tmp_path)) >= 5 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        server.fail(fault)
        printed, _ = process.communicate(timeout=PATIENCE)  # by default W&B waits for days
        assert process.returncode == 0, printed
        assert not server.ended
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    (line,) = [line for line in printed.splitlines() if line.startswith("W&B: ")]
    before, _, command = line.partition("; to send it: ")
    assert before == "W&B: finishing failed: not everything was sent within 3 s"
    run = load_run(tmp_path / "out")
    assert run
    assert run.status == "finished"
    later = synced(shlex.split(command)[2:], tmp_path)
    assert run.tracker_id
    assert sent(later, run.tracker_id) == [(row["step"], row["loss"]) for row in rows]


def test_a_run_that_cannot_begin_online_is_written_offline_for_real(
    tmp_path: Path, tiny_dir: Path
) -> None:
    with wandb_server() as server:
        server.fail("takes no run")  # its /healthz still answers
        process = start_online(tmp_path, tiny_dir, server.address, init_timeout=4)
        printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, printed
    assert printed.count("this run is written offline") == 1
    rows = logged(tmp_path)
    run = load_run(tmp_path / "out")
    assert run
    assert run.tracker_id
    (offline,) = (tmp_path / "out" / "wandb").glob(f"offline-run-*-{run.tracker_id}")
    later = synced([str(offline)], tmp_path)
    assert sent(later, run.tracker_id) == [(row["step"], row["loss"]) for row in rows]


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_run_of_wandb(tmp_path: Path, tiny_dir: Path) -> None:
    with wandb_server() as server:
        process = start_online(tmp_path, tiny_dir, server.address, "--save_steps", "5")
        wait_until(lambda: len(logged(tmp_path)) >= 12 or process.poll() is not None)
        process.kill()
        printed, _ = process.communicate()
        assert process.returncode == -9, printed
        again = start_online(tmp_path, tiny_dir, server.address, "--save_steps", "5", "--resume")
        printed, _ = again.communicate(timeout=PATIENCE)
        assert again.returncode == 0, printed
    run = load_run(tmp_path / "out")
    assert run
    assert set(server.begun) == {run.tracker_id}
    assert server.ended == [run.tracker_id]
    assert run.tracker_id
    assert dict(sent(server, run.tracker_id)).keys() >= set(range(11, STEPS + 1))


@pytest.mark.slow
def test_a_run_killed_offline_is_synced_as_one_run(tmp_path: Path, tiny_dir: Path) -> None:
    """W&B keeps its last records in memory: those that a kill loses are in metrics.jsonl."""
    with refused() as address:
        flags = ("--save_steps", "5", "--disable_tqdm", "true")
        process = start_online(tmp_path, tiny_dir, address, *flags)
        wait_until(lambda: len(logged(tmp_path)) >= 12 or process.poll() is not None)
        process.kill()
        printed, _ = process.communicate()
        assert process.returncode == -9, printed
        again = start_online(tmp_path, tiny_dir, address, *flags, "--resume")
        printed, _ = again.communicate(timeout=PATIENCE)
        assert again.returncode == 0, printed
    run = load_run(tmp_path / "out")
    assert run
    assert run.tracker_id
    folder = tmp_path / "out" / "wandb"
    found = sorted(folder.glob("*offline-run-*"))
    assert len(found) == 2
    assert all(path.name.endswith(f"-{run.tracker_id}") for path in found)
    begun = [path for path in folder.glob("offline-run-*/*.wandb") if path.stat().st_size > 7]
    assert len(begun) == len(list(folder.glob("offline-run-*")))
    assert printed.count("renamed to torn-offline-run-") == 2 - len(begun)
    server = synced([str(path.parent) for path in begun], tmp_path)
    assert set(server.begun) == {run.tracker_id}
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    losses = {row["step"]: row["loss"] for row in rows}
    arrived = sent(server, run.tracker_id)
    assert {step for step, _ in arrived} >= set(range(11, STEPS + 1))
    assert all(losses[step] == loss for step, loss in arrived), "the same bits, sent once or twice"


def test_what_was_killed_before_its_first_record_is_set_aside(
    online: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run("sft", "sft", "f", tracker_id="sft-f-1")
    folders = [tmp_path / "wandb" / f"offline-run-2026_{number}-sft-f-1" for number in (1, 2)]
    for folder, size in zip(folders, (7, 32768), strict=True):
        folder.mkdir(parents=True)
        (folder / "run-sft-f-1.wandb").write_bytes(b"w" * size)
    with refused() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        prepare_wandb(run, group=None, folder=tmp_path)
    assert not folders[0].exists()
    assert folders[1].exists()
    assert (tmp_path / "wandb" / f"torn-{folders[0].name}").is_dir()
    assert capsys.readouterr().err.count("renamed to torn-offline-run-2026_1-sft-f-1") == 1
