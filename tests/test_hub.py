"""Models and data sets by name, from a mirror: the commands as users start them, over HTTP."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub import SHA, serve_hub
from support import PATIENCE, REPOSITORY, write_jsonl

from alignment.runs.record import load_run

PAIRS = [
    {"prompt": f"Say {n}.", "chosen": f"Here it is: {n}.", "rejected": "No."} for n in range(8)
]


@pytest.fixture
def hub(tmp_path: Path, tiny_dir: Path) -> Path:
    """A tiny model, and a data set of two splits with a card."""
    root = tmp_path / "hub"
    shutil.copytree(tiny_dir, root / "models" / "owner" / "tiny")
    pairs = root / "datasets" / "owner" / "pairs"
    pairs.mkdir(parents=True)
    (pairs / "README.md").write_text("---\nlicense: apache-2.0\n---\nPairs.\n", encoding="utf-8")
    write_jsonl(pairs / "train.jsonl", PAIRS[:6])
    write_jsonl(pairs / "test.jsonl", PAIRS[6:])
    return root


def align(folder: Path, endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the hub at an endpoint (empty: offline) and a cache of its own."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0" if endpoint else "1",
        "HF_DATASETS_OFFLINE": "0" if endpoint else "1",
        "HF_HOME": str(folder / "cache"),
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.run(
        [sys.executable, "-m", "alignment", *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def test_a_data_set_is_read_by_its_name_from_a_mirror(hub: Path, tmp_path: Path) -> None:
    with serve_hub(hub) as endpoint:
        whole = align(tmp_path, endpoint, "data", "convert", "owner/pairs", "-o", "all.jsonl")
        train = align(tmp_path, endpoint, "data", "convert", "owner/pairs:train", "-o", "tr.jsonl")
    assert whole.returncode == 0, whole.stderr
    assert train.returncode == 0, train.stderr
    for name, pairs in (("all.train", PAIRS[:6]), ("all.test", PAIRS[6:]), ("tr", PAIRS[:6])):
        lines = (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["prompt"] for line in lines] == [pair["prompt"] for pair in pairs]


def test_a_stage_takes_model_and_data_from_a_mirror_and_then_from_its_cache(
    hub: Path, tmp_path: Path
) -> None:
    words = [
        "dpo", "--model_name_or_path", "owner/tiny", "--train_data", "owner/pairs:train",
        "--output_dir", "out", "--max_steps", "1", "--per_device_train_batch_size", "2",
        "--report_to", "none", "--max_length", "64",
    ]  # fmt: skip
    with serve_hub(hub) as endpoint:
        done = align(tmp_path, endpoint, *words)
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "out")
    assert run is not None
    assert run.status == "finished"
    [source] = run.inputs["train"]
    assert source.rows == 6
    assert source.sha256 == f"hub:owner/pairs:train@{SHA}"
    assert run.parents["model"].path == "owner/tiny"
    again = align(tmp_path, "", *words, "--resume")
    assert again.returncode == 0, again.stderr


def test_a_dead_mirror_costs_one_time_out_if_all_is_cached(
    hub: Path, tmp_path: Path, tiny_dir: Path
) -> None:
    cached = tmp_path / "cache" / "hub" / "models--owner--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("5" * 40)
    shutil.copytree(tiny_dir, cached / "snapshots" / ("5" * 40))
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    words = ["dpo", "--train_data", "pairs.jsonl", "--output_dir", "out", "--report_to", "none"]
    words += ["--max_steps", "1", "--per_device_train_batch_size", "2", "--max_length", "64"]
    began = time.monotonic()
    dead = "http://127.0.0.1:9"
    done = align(tmp_path, dead, *words, "--model_name_or_path", "owner/tiny")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 100  # 152 s of tries before
    assert done.stderr.count(f"hub: {dead}: no answer (") == 1
    assert "retry" not in done.stderr.lower()
    (cached / "snapshots" / ("5" * 40) / "model.safetensors").unlink()
    for name, message in (
        ("owner/none", "model_name_or_path: owner/none: no such folder, and no hub model"),
        ("owner/tiny", "hub: owner/tiny does not appear to have a file named pytorch_model.bin"),
    ):
        again = align(tmp_path, dead, *words, "--overwrite", "--model_name_or_path", name)
        assert again.returncode == 2, again.stderr
        assert f"error: {message}" in again.stderr
        assert "Traceback" not in again.stderr


def test_reject_records_the_commit_of_a_model_of_the_hub(hub: Path, tmp_path: Path) -> None:
    prompts = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    words = ["data", "reject", "prompts.jsonl", "--model", "owner/tiny", "--max-new-tokens", "2"]
    with serve_hub(hub) as endpoint:
        done = align(tmp_path, endpoint, *words, "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    meta = json.loads((tmp_path / "out.jsonl.meta.json").read_text(encoding="utf-8"))
    assert meta["revision"] == SHA


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data", "convert", "owner/none", "-o", "x.jsonl"), "error: owner/none: no such file"),
        (
            ("sft", "--model_name_or_path", "owner/none", "--train_data", "owner/pairs:train",
             "--output_dir", "out"),
            "error: model_name_or_path: owner/none: no such folder, and no hub model",
        ),
        (
            ("sft", "--model_name_or_path", "owner/tiny", "--train_data", "owner/pairs",
             "--output_dir", "out"),
            "error: owner/pairs: has the splits train, test\n  name the one to use: owner/pairs:tr",
        ),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_used_is_one_message(
    hub: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    with serve_hub(hub) as endpoint:
        done = align(tmp_path, endpoint, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
