"""The demo learns: by a rule that no stage hears of, on facts that no stage saw."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.evaluate import load_evaluation
from alignment.pipeline.file import read_pipeline
from alignment.runs.record import load_run

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = "recipes/demo/data"
MARGIN = 0.20
KL_BOUND = 4.0  # nats a response, of ten tokens
PAIRS = [f"{DATA}/huozi.csv", f"{DATA}/huozi.json", f"{DATA}/rlhf.jsonl"]


def align(folder: Path, *words: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "disabled"}
    subprocess.run(
        [sys.executable, "-m", "alignment", *words], cwd=folder, env=environment, check=True
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dpo_and_ppo_beat_sft_on_the_hidden_rule(seed, tmp_path):
    shutil.copytree(REPOSITORY / "recipes" / "demo", tmp_path / "recipes" / "demo")
    align(tmp_path, "init-model", "tiny", "runs/demo/base", "--seed", str(seed))
    align(tmp_path, "data", "convert", f"{DATA}/alpaca.json", "-o", "runs/demo/data/sft.jsonl")
    align(tmp_path, "data", "convert", *PAIRS, "-o", "runs/demo/data/pairs.jsonl")
    steps = read_pipeline(tmp_path / "recipes" / "demo" / "pipeline.yaml").steps
    seeds = [word for step in steps for word in ("--set", f"{step.name}.seed={seed}")]
    align(tmp_path, "run", "recipes/demo/pipeline.yaml", *seeds)
    align(
        tmp_path,
        *("eval", "sft=runs/demo/sft", "dpo=runs/demo/dpo", "ppo=runs/demo/ppo"),
        *("--reference", "sft", "--prompts", f"{DATA}/held_out.jsonl"),
        *("--rule", "alignment.demo.rule:score", "--reward-model", "runs/demo/rm"),
        *("--max-new-tokens", "24", "--batch-size", "64", "--output", "runs/demo/eval"),
    )
    evaluation = load_evaluation(tmp_path / "runs" / "demo" / "eval")
    share = {m.name: next(iter(m.rules.values())).value for m in evaluation.models}
    assert 0.3 < share["sft"] < 0.65
    for name in ("dpo", "ppo"):
        assert share[name] >= share["sft"] + MARGIN, share
        kl = evaluation.summary(name).kl
        assert kl is not None
        assert 0 < kl.value < KL_BOUND
    rm = load_run(tmp_path / "runs" / "demo" / "rm")
    assert rm is not None
    assert rm.metrics["eval_accuracy"] > 0.8
