"""A loss spike by exact numbers: what is compared, from when on, and after a resume."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from alignment.errors import TrainingError
from alignment.training.spikes import ENOUGH, WINDOW, SpikeGuard


class Logged:
    """A guard that is shown losses one by one, a step each."""

    def __init__(self, folder: Path, factor: float, history: list[dict[str, Any]] | None = None):
        self.args = TrainingArguments(str(folder), use_cpu=True, report_to=[])
        self.state = TrainerState(log_history=history or [], global_step=len(history or []))
        self.guard = SpikeGuard(factor)
        self.guard.on_train_begin(self.args, self.state, TrainerControl())

    def log(self, *losses: float) -> None:
        for loss in losses:
            self.state.global_step += 1
            self.guard.on_log(self.args, self.state, TrainerControl(), logs={"loss": loss})


def test_a_loss_over_the_factor_stops_and_the_factor_itself_does_not(tmp_path: Path) -> None:
    run = Logged(tmp_path, 3.0)
    run.log(1.0, 2.0, 2.0, 2.0, 9.0)  # a median of 2, whatever one of them is
    run.log(6.0)
    with pytest.raises(TrainingError, match=r"steps 7 to 7: the loss is 6\.001, over 3 times"):
        run.log(6.001)


def test_the_first_losses_are_never_spikes(tmp_path: Path) -> None:
    Logged(tmp_path, 2.0).log(*[1.0] * (ENOUGH - 1), 100.0)
    with pytest.raises(TrainingError):
        Logged(tmp_path, 2.0).log(*[1.0] * ENOUGH, 100.0)


def test_old_losses_are_forgotten(tmp_path: Path) -> None:
    run = Logged(tmp_path, 2.0)
    run.log(*[1.0] * WINDOW, *[1.9] * (WINDOW // 2 + 1), 3.0)


def test_a_resumed_run_remembers_the_losses_before_it(tmp_path: Path) -> None:
    history: list[dict[str, Any]] = [{"loss": 1.0, "step": n} for n in range(ENOUGH)]
    run = Logged(tmp_path, 2.0, [*history, {"eval_loss": 50.0}])
    with pytest.raises(TrainingError, match=f"steps {ENOUGH + 2} to {ENOUGH + 2}: the loss is 3"):
        run.log(3.0)


def test_evaluations_and_a_median_of_zero_are_no_measure(tmp_path: Path) -> None:
    run = Logged(tmp_path, 2.0)
    run.log(*[0.0] * ENOUGH, 5.0)
    run.guard.on_log(run.args, run.state, TrainerControl(), logs={"eval_loss": 1e9})
    run.guard.on_log(run.args, run.state, TrainerControl(), logs=None)
