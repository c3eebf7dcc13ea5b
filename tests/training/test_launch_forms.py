"""Every way of starting several processes, on a machine without a GPU, trains the same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import PATIENCE, REPOSITORY, write_jsonl

from alignment.errors import ConfigError
from alignment.training import run
from alignment.training.accelerate_words import asked_of_accelerate

PAIRS = [{"prompt": f"say {n}", "chosen": "one two", "rejected": "no"} for n in range(8)]
ANSWERS = [{"prompt": f"say {n}", "completion": "one two"} for n in range(8)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "pt": [{"text": f"one two {n}"} for n in range(8)],
    "sft": ANSWERS,
    "rm": PAIRS,
    "dpo": PAIRS,
    "kto": [{**row, "label": n % 2 == 0} for n, row in enumerate(ANSWERS)],
    "ppo": [{"prompt": f"say {n}"} for n in range(8)],
}
FLAGS = {
    "kto": ["--per_device_train_batch_size", "2"],
    "ppo": ["--reward_model", "rewards.py:length", "--max_completion_length", "4"],
}
LAUNCH = ["-m", "accelerate.commands.launch"]
FORMS = {
    "accelerate": [*LAUNCH, "--multi_gpu", "--num_processes", "2"],
    "no multi_gpu": [*LAUNCH, "--num_processes", "2"],
    "cpu": [*LAUNCH, "--cpu", "--num_processes", "2"],
    "config": [*LAUNCH, "--config_file", "two.yaml"],
    "cpu config": [*LAUNCH, "--config_file", "cpu.yaml"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "nproc": [],
}
CONFIG = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\n"
#: As `accelerate config` writes it for several processes on a CPU.
CPU_CONFIG = CONFIG.replace("MULTI_GPU", "MULTI_CPU") + "use_cpu: true\nnum_machines: 1\n"


def start(
    folder: Path, model: Path, stage: str, form: list[str], name: str
) -> subprocess.CompletedProcess[str]:
    """Two steps of a stage on a machine that shows no GPU."""
    write_jsonl(folder / "rows.jsonl", ROWS[stage])
    (folder / "two.yaml").write_text(CONFIG)
    (folder / "cpu.yaml").write_text(CPU_CONFIG)
    (folder / "rewards.py").write_text(
        "def length(prompts, completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    program = [str(REPOSITORY / "recipes" / f"{stage}.py")]
    words = ["--model_name_or_path", str(model), "--train_data", "rows.jsonl", "--max_steps", "2"]
    words += ["--output_dir", name, "--report_to", "none", "--save_strategy", "no"]
    words += ["--per_device_train_batch_size", "1", "--disable_tqdm", "true"]
    if not form:
        program, words = ["-m", "alignment", stage], [*words, "--nproc", "2"]
    shown = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *form, *program, *words, *FLAGS.get(stage, [])],
        cwd=folder, env={**os.environ, **shown}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.parametrize(
    "stage", [pytest.param(s, marks=[] if s == "sft" else [pytest.mark.slow]) for s in ROWS]
)
def test_every_form_trains_the_same_model(stage: str, tmp_path: Path, tiny_dir: Path) -> None:
    weights, processes = set(), []
    for name, form in FORMS.items():
        done = start(tmp_path, tiny_dir, stage, form, name)
        assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
        weights.add((tmp_path / name / "model.safetensors").read_bytes())
        record = json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8"))
        processes.append((record["status"], record["processes"]))
    assert len(weights) == 1
    assert processes == [("finished", 2)] * len(FORMS)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["accelerate", "launch", "--cpu", "--num_processes", "3", "recipes/sft.py"], 3),
        (["python", "/bin/accelerate-launch", "--cpu", "--num_processes=2", "sft.py", "-x"], 2),
        (["accelerate", "launch", "--config_file", "cpu.yaml", "sft.py"], 2),
        (["accelerate", "launch", "--num_processes", "4", "--num_machines", "2", "sft.py"], None),
        (["bash"], None),
    ],
)
def test_the_number_of_processes_is_what_accelerate_was_asked_for(
    words: list[str], number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.yaml").write_text(CPU_CONFIG)
    monkeypatch.chdir(tmp_path)
    parent = SimpleNamespace(cmdline=lambda: words)
    monkeypatch.setattr("psutil.Process", lambda: SimpleNamespace(parent=lambda: parent))
    assert asked_of_accelerate() == number


def test_one_process_of_an_unknown_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "True")
    monkeypatch.setattr(run, "asked_of_accelerate", lambda: None)
    with pytest.raises(ConfigError, match="started one process of several"):
        run._start_all_processes()
