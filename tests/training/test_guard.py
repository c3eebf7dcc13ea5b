"""A signal to one of several processes, and steps that fp16 leaves out."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import PATIENCE, REPOSITORY
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState, TrainingArguments

from alignment.errors import TrainingError
from alignment.runs.files import checkpoints
from alignment.runs.record import Run
from alignment.training.checkpoints import find_fault
from alignment.training.guard import Guard
from alignment.training.signals import StopSignals

SCRIPT = Path(__file__).with_name("signalled.py")


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    more = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **more, "ACCELERATE_USE_CPU": "true"}


def test_a_signal_to_one_process_stops_both_at_the_same_step(
    tmp_path: Path, tiny_dir: Path
) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, str(SCRIPT), str(tiny_dir), str(tmp_path)],
        env=environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert found == [{"signal": int(signal.SIGTERM), "step": 2}] * 2
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-2"]
    assert find_fault(tmp_path / "out" / "checkpoint-2") is None


class Scaled:
    """A guard before the optimizer steps of a run in fp16, gradient by gradient."""

    def __init__(self, folder: Path, *, scaler: Any) -> None:
        self.model = torch.nn.Linear(2, 1)
        self.guard = Guard(Run("sft", "out", "f", checks={"train": {"rows": 4}}), StopSignals())
        accelerator = SimpleNamespace(scaler=scaler)
        self.guard.trainer = SimpleNamespace(accelerator=accelerator, train_dataset=range(4))
        self.args = TrainingArguments(str(folder), use_cpu=True, report_to=[])

    def step(self, gradient: float, times: int = 1) -> None:
        for _ in range(times):
            for parameter in self.model.parameters():
                parameter.grad = torch.full_like(parameter, gradient)
            self.guard.on_pre_optimizer_step(
                self.args, TrainerState(), TrainerControl(), model=self.model,
                train_dataloader=DataLoader(range(4)),
            )  # fmt: skip


def test_overflows_of_fp16_stop_only_when_there_are_20_in_a_row(tmp_path: Path) -> None:
    """A scaler that begins at 2^16 overflows up to 16 times before it has found its scale."""
    run = Scaled(tmp_path, scaler=object())
    run.step(torch.inf, times=19)
    run.step(1.0)
    run.step(torch.nan, times=19)
    with pytest.raises(TrainingError, match="not finite in the gradient of weight"):
        run.step(torch.inf)


def test_without_a_scaler_the_first_one_stops(tmp_path: Path) -> None:
    run = Scaled(tmp_path, scaler=None)
    run.step(1.0, times=3)
    with pytest.raises(TrainingError, match="not finite in the gradient of weight"):
        run.step(torch.inf)


def test_a_checkpoint_holds_the_loss_of_all_processes(tmp_path: Path) -> None:
    guard = Guard(Run("sft", "out", "f"), StopSignals())
    guard.trainer = SimpleNamespace(
        accelerator=SimpleNamespace(gather=lambda mine: torch.stack([mine, torch.tensor(4.0)])),
        _tr_loss=torch.tensor(2.0), _total_loss_scalar=10.0, _total_train_tokens=7,
    )  # fmt: skip
    (tmp_path / "checkpoint-3").mkdir()
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    guard.on_save(args, TrainerState(global_step=3), TrainerControl())
    counters = json.loads((tmp_path / "checkpoint-3" / "counters.json").read_text())
    assert counters == {"num_tokens": 7, "loss": 13.0, "evaluation_is_due": False}


@pytest.mark.parametrize("saved", [True, False])
def test_a_signal_after_the_last_step_of_an_epoch_saves_it_once(
    saved: bool, tmp_path: Path
) -> None:
    signals = StopSignals()
    guard = Guard(Run("sft", "out", "f"), signals)
    guard.saved_step = 4 if saved else 2
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], save_strategy="epoch")
    state, control = TrainerState(global_step=4, epoch=1.0), TrainerControl(should_save=True)
    guard.on_epoch_end(args, state, control)
    assert (control.should_save, control.should_training_stop) == (True, False)
    signals.came = signal.SIGTERM
    guard.on_epoch_end(args, state, control)
    assert (control.should_save, control.should_training_stop) == (not saved, True)
