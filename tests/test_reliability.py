"""Numbers that are not finite, losses that jump: what is said, of which rows, and what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import CORPUS, REPOSITORY, write_jsonl

from alignment.errors import TrainingError
from alignment.runs.files import checkpoints
from alignment.runs.record import Run
from alignment.training.batches import name_rows
from alignment.training.checkpoints import find_fault
from alignment.training.run import run_stage

SEED = 3
ROWS = [{"prompt": f"say {sign}", "completion": f"{sign} is said"} for sign in "abcdefghij"]


def sft(folder: Path, model: Path, *flags: str, rows: list[dict[str, Any]] = ROWS) -> list[str]:
    """The words of a small supervised run."""
    data = folder / "data.jsonl"
    if not data.exists():
        write_jsonl(data, rows)
    words = ["--model_name_or_path", str(model), "--train_data", str(data), "--use_cpu"]
    words += ["--output_dir", str(folder / "out"), "--report_to", "none", "--disable_tqdm", "true"]
    words += ["--per_device_train_batch_size", "2", "--logging_steps", "1", "--seed", str(SEED)]
    return [*words, *flags]


@pytest.mark.parametrize(("broken_step", "accumulation"), [(0, 1), (4, 2), (7, 1)])
def test_a_broken_gradient_names_its_rows_and_the_checkpoint_before(
    broken_step: int, accumulation: int, tmp_path: Path, tiny_dir: Path
) -> None:
    """A fault planted at one step, beside a record of what that step was really given."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from alignment.training.guard import Guard
    from alignment.training.signals import StopSignals

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    run = Run("sft", "out", "f", checks={"train": {"rows": len(ROWS)}})
    guard = Guard(run, StopSignals())
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=str(tmp_path), max_steps=12, save_steps=2, use_cpu=True, bf16=False,
            report_to="none", per_device_train_batch_size=2, seed=SEED, disable_tqdm=True,
            gradient_accumulation_steps=accumulation, activation_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([{"text": row["prompt"]} for row in ROWS]),
        processing_class=tokenizer,
        callbacks=[guard],
    )  # fmt: skip
    given: list[str] = []

    def plant(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        if trainer.state.global_step == broken_step:
            given.extend(tokenizer.batch_decode(kwargs["input_ids"], skip_special_tokens=True))
            output.last_hidden_state = output.last_hidden_state * torch.nan
        return output

    model.model.register_forward_hook(plant, with_kwargs=True)
    with pytest.raises(TrainingError) as stopped, guard.watching(trainer):
        trainer.train()
    texts = [row["prompt"] for row in ROWS]
    rows = sorted(texts.index(text.strip()) + 1 for text in given)
    assert len(rows) == 2 * accumulation
    message = stopped.value.message
    assert message.startswith(f"step {broken_step + 1}: a number that is not finite in the grad")
    assert message.endswith(f"in the batch of training rows {', '.join(map(str, rows))}")
    last = broken_step - broken_step % 2
    good = str(tmp_path / f"checkpoint-{last}") if last else "none yet"
    assert stopped.value.remedy.startswith(f"the last good checkpoint is {good};")


def test_a_damaged_checkpoint_is_not_called_good(tmp_path: Path, tiny_dir: Path) -> None:
    words = sft(tmp_path, tiny_dir, "--save_steps", "1")
    run_stage("sft", [*words, "--max_steps", "2"])
    (tmp_path / "out" / "checkpoint-2" / "optimizer.pt").write_bytes(b"")
    from alignment.training.checkpoints import last_good

    assert last_good(tmp_path / "out", up_to=2) == str(tmp_path / "out" / "checkpoint-1")
    assert last_good(tmp_path / "out", up_to=0) == "none yet"
    assert (tmp_path / "out" / "checkpoint-2").is_dir(), "only looked at"


def test_an_update_that_breaks_the_weights_is_never_saved(tmp_path: Path, tiny_dir: Path) -> None:
    words = sft(tmp_path, tiny_dir, "--learning_rate", "1e39", "--lr_scheduler_type", "constant")
    with pytest.raises(TrainingError, match="step 1: a number that is not finite in the weights"):
        run_stage("sft", [*words, "--max_steps", "3", "--save_steps", "1"])
    assert not checkpoints(tmp_path / "out")


def test_ppo_looks_at_its_weights_before_it_samples(tmp_path: Path, tiny_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny_dir).save_pretrained(tmp_path / "broken")
    rows = [{"prompt": row["prompt"]} for row in ROWS]
    words = sft(tmp_path, tmp_path / "broken", "--reward_model", "kills:reward", rows=rows)
    sys.path.insert(0, str(REPOSITORY / "benchmarks" / "faults"))
    with pytest.raises(TrainingError) as stopped:
        run_stage("ppo", [*words, "--max_steps", "1", "--max_completion_length", "4"])
    assert "the weights of model.layers.1.mlp.up_proj.weight" in stopped.value.message
    assert "Error" not in stopped.value.message


def test_rows_are_named_up_to_a_bound() -> None:
    assert name_rows(None, unit="rows") == ""
    assert name_rows([4, 9], unit="rows") == ", in the batch of rows 4, 9"
    assert name_rows(list(range(40)), unit="rows").endswith("30, 31 and 8 more")


def test_a_loss_spike_stops_the_run_where_it_is_asked_for(tmp_path: Path, tiny_dir: Path) -> None:
    """The learning rate is mild for the rows seen so far; the last rows are of another world."""
    quiet = [{"prompt": "say", "completion": " a" * 9}] * 40
    loud = [{"prompt": "say", "completion": CORPUS[3][:9]}] * 40
    words = sft(tmp_path, tiny_dir, rows=[*quiet, *loud])
    words += ["--train_sampling_strategy", "sequential", "--learning_rate", "2e-2"]
    words += ["--max_steps", "40", "--save_steps", "5", "--lr_scheduler_type", "constant"]
    with pytest.raises(TrainingError, match=r"steps 21 to 21: the loss is .* \(max_loss_spike\)"):
        run_stage("sft", [*words, "--max_loss_spike", "3"])
    newest = checkpoints(tmp_path / "out")[-1]
    assert newest.name == "checkpoint-20"
    assert find_fault(newest) is None


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'benchmarks' / 'faults'}",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }


def align(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alignment", *words],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
