"""W&B without a key: offline in one line, one group a pipeline, lineage in the config."""

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import REPOSITORY, write_jsonl

from alignment.runs.record import Run, load_run
from alignment.trackers.wandb import prepare_wandb


@pytest.fixture
def bare(no_wandb_variables: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without variables of W&B, and an empty home."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


def test_no_key_means_offline_in_one_line(bare: Path) -> None:
    run = Run("dpo", "dpo", "f" * 16, started=7.0)
    line = prepare_wandb(run, group="demo", folder=bare)
    assert line
    assert "\n" not in line
    assert "wandb sync" in line
    assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["WANDB_RUN_GROUP"] == "demo"
    assert os.environ["WANDB_JOB_TYPE"] == "dpo"
    assert os.environ["WANDB_RUN_ID"] == run.tracker_id == f"dpo-{'f' * 16}-7"


class Unknown(BaseHTTPRequestHandler):
    """Answers 404 to everything, which is an answer."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize("place", ["variable", "netrc"])
def test_a_key_is_found_where_wandb_looks(
    place: str, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Unknown) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{host}")
        if place == "variable":
            monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        else:
            (bare / "netrc").write_text(f"machine {host} login user password {'k' * 40}\n")
            (bare / "netrc").chmod(0o600)
        line = prepare_wandb(Run("dpo", "dpo", "f"), group=None, folder=bare)
        server.shutdown()
        thread.join()
    assert line is None
    assert "WANDB_MODE" not in os.environ


def test_online_with_a_dead_server_goes_offline_within_seconds(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B itself takes over a minute to find out."""
    monkeypatch.setenv("WANDB_MODE", "online")
    with socket.socket() as silent:  # takes connections, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setattr("alignment.trackers.wandb.PROBE_SECONDS", 0.5)
        line = prepare_wandb(Run("dpo", "dpo", "f"), group=None, folder=bare)
    assert line is not None
    assert line.startswith(f"W&B: {address} did not answer in 0.5 s, so this run stays offline")
    assert os.environ["WANDB_MODE"] == "offline"


def test_what_the_user_set_stays(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    prepare_wandb(Run("dpo", "dpo", "f"), group=None, folder=bare)
    assert os.environ["WANDB_PROJECT"] == "mine"
    assert os.environ["WANDB_RUN_ID"] == "chosen"


def test_a_run_with_no_key_trains_offline_with_its_lineage(bare: Path, tiny_dir: Path) -> None:
    data = write_jsonl(bare / "data.jsonl", [{"prompt": "a", "completion": "b"}] * 4)
    words = ["--model_name_or_path", str(tiny_dir), "--train_data", str(data), "--max_steps", "1"]
    words += ["--output_dir", str(bare / "out"), "--use_cpu", "--run_group", "family"]
    program = (
        "from alignment.trackers.wandb import WandbTracker\n"
        "from alignment.training import run\n"
        "WandbTracker.finish = lambda *_, **__: None  # so that its run can be inspected\n"
        f"run.run_stage('sft', {[*words, '--report_to', 'wandb']!r})\n"
        "import wandb\n"
        "print('GROUP', wandb.run.group, wandb.run.job_type, wandb.run.settings.mode)\n"
        "found = wandb.run.config\n"
        "print('CONFIG', found['stage'], found['fingerprint'],\n"
        "      len(found['inputs']['train']), found['settings']['max_steps'])\n"
        "wandb.finish()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, env=environment, cwd=bare,
    )  # fmt: skip
    run = load_run(bare / "out")
    assert run
    assert "W&B: no key found, so this run stays offline" in done.stdout
    assert "GROUP family sft offline" in done.stdout
    assert f"CONFIG sft {run.fingerprint} 1 1" in done.stdout
    assert len(list((bare / "out" / "wandb").glob("offline-run-*"))) == 1
    assert (bare / "out" / "metrics.jsonl").stat().st_size > 0
