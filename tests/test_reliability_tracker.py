"""W&B refused, silent or broken: the run trains, its metrics are whole, one line says it."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_reliability import sft
from transformers import TrainerCallback

from alignment import wandb_setup
from alignment.runs import Run, load_run
from alignment.stages import run_stage
from alignment.tracking import Tolerant, tolerate_trackers
from alignment.wandb_setup import prepare_wandb

VARIABLES = ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "WANDB_JOB_TYPE", "WANDB_RUN_GROUP",
             "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_INIT_TIMEOUT")  # fmt: skip


class Broken(BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def refused() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as hole:  # takes connections, says nothing
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
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment with a key, which would go online."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb_setup, "PROBE_SECONDS", 1.0)
    yield
    import wandb

    wandb.finish()


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
        told = prepare_wandb(Run("sft", "sft", "f"), group=None, folder=tmp_path)
        assert time.monotonic() - begin < 30
    assert told
    assert why in told
    assert "wandb sync" in told
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
    assert list((tmp_path / "out" / "wandb").glob(f"offline-run-*-{first.tracker_id}/*.wandb"))


class Failing(TrainerCallback):
    """Begins, then fails at each log."""

    def __init__(self) -> None:
        self.calls = 0

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        raise ConnectionError("the tracker is gone\nsecond line")


def test_an_error_of_a_tracker_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing()
    tolerant = Tolerant(failing)
    for _ in range(3):
        tolerant.on_log(None, None, None)  # type: ignore[arg-type]
    assert failing.calls == 1
    said = [r.getMessage() for r in caplog.records if r.name == "alignment.tracking"]
    assert said == ["Failing failed and is left out from now on: the tracker is gone"]


def test_every_tracker_of_transformers_is_tolerated() -> None:
    from transformers.integrations import TensorBoardCallback, WandbCallback

    callbacks: list[TrainerCallback] = [Failing(), WandbCallback()]
    tolerate_trackers(callbacks)
    assert isinstance(callbacks[0], Failing)
    assert isinstance(callbacks[1], Tolerant)
    assert TensorBoardCallback.__module__.startswith("transformers.integrations")
