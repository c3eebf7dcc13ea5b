"""Two processes on CPU (gloo) give what one gives, within rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import PATIENCE
from two_processes import main

SCRIPT = Path(__file__).with_name("two_processes.py")
SAME = ("loss", "objective/", "policy/", "critic/", "response/", "rewards/")


def run_one(model: Path, folder: Path, case: str) -> dict[str, Any]:
    folder.mkdir()
    main(str(model), str(folder), 1, case)
    return written(folder)


def run_two(model: Path, folder: Path, case: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {
        "PYTHONPATH": f"{SCRIPT.parent}:{SCRIPT.parents[2]}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [*launcher, str(SCRIPT), str(model), str(folder), "2", case]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr[-9000:]
    return written(folder)


def written(folder: Path) -> dict[str, Any]:
    return {
        "weights": torch.load(folder / "w.pt", weights_only=True),
        "log": json.loads((folder / "log.json").read_text()),
        "held_out": json.loads((folder / "held_out.json").read_text()),
        "beta": float((folder / "beta.txt").read_text()),
    }


@pytest.mark.parametrize(
    "case",
    [
        "head",
        pytest.param("model", marks=pytest.mark.slow),
        pytest.param("head-lora", marks=pytest.mark.slow),
        pytest.param("lora-lora", marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one(tiny_dir: Path, tmp_path: Path, case: str) -> None:
    one = run_one(tiny_dir, tmp_path / "one", case)
    two = run_two(tiny_dir, tmp_path / "two", case)
    assert len(one["log"]) == len(two["log"]) == 6
    for a, b in zip(one["log"], two["log"], strict=True):
        for name, value in a.items():
            if name.startswith(SAME):
                assert b[name] == pytest.approx(value, abs=1e-4), name
    for name, value in one["held_out"].items():
        if name.removeprefix("eval_").startswith((*SAME, "completions/")):
            assert two["held_out"][name] == pytest.approx(value, abs=1e-4), name
    assert two["beta"] == pytest.approx(one["beta"], rel=1e-6)
    assert one["beta"] != 0.05
    for name, x in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], x, atol=5e-6, rtol=0)
    if case == "head":  # one mini-batch an epoch, two epochs: step 3 is within the second rollout
        again = run_two(tiny_dir, tmp_path / "two", "resume-head")
        for name, x in two["weights"].items():
            assert torch.equal(again["weights"][name], x), name
        assert again["beta"] == two["beta"]
