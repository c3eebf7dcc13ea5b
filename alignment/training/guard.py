"""What keeps a run from being lost: sealed checkpoints, signals, and a stop at the first NaN.

A callback, the same for every stage.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.disk import write_text
from alignment.errors import TrainingError
from alignment.processes import leave_signals_to_parent
from alignment.runs import Run, checkpoint_name
from alignment.training.batches import name_rows, rows_of_step
from alignment.training.checkpoints import last_good, rotate, seal
from alignment.training.pending_evaluation import (
    EvaluationStopped,
    PendingEvaluation,
    ends_an_epoch,
)
from alignment.training.signals import WHILE_LOADING, StopSignals

#: What TRL counts and does not save: the tokens seen, ``num_tokens`` in its metrics.
_COUNTERS = "counters.json"
#: The loss scaler of fp16 starts at 2^16, leaves out a step that overflows and halves, which is no
#: fault. So many overflows in a row are one: even a scale of 2^-3 overflows.
_OVERFLOWS = 20


class Complete(Exception):
    """A resumed run has no step left; its weights are loaded."""


class Guard(TrainerCallback):
    """Seals and rotates checkpoints; stops at a signal and at a number that is not finite."""

    def __init__(self, run: Run, signals: StopSignals) -> None:
        self.run = run
        self.signals = signals
        self.keep: int | None = None
        self.trainer: Any = None
        self.overflows = 0
        self.loss = 0.0  # of all steps before a resume
        self.evaluation = PendingEvaluation()
        self.saved_step: int | None = None

    @contextmanager
    def watching(self, trainer: Any) -> Iterator[None]:
        """Let training end with its step if a signal comes, in place of ending it at once.

        Raises:
            Interrupted: a signal came; training has stopped and its checkpoint is written.
        """
        self.trainer = trainer
        self.signals.defer()
        # a library may have swallowed what was raised
        self.signals.check(WHILE_LOADING)
        try:
            yield
        except EvaluationStopped:
            self._save_stopped_evaluation(trainer)
        self.check()

    def check(self) -> None:
        """Stop if a signal came to any process while training.

        Raises:
            Interrupted: one came, and the last step is saved.
        """
        self.signals.came = _agree(self.signals.came, self.trainer.args)
        self.signals.check("after its checkpoint was written; continue with --resume")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Rotate in place of the trainer, which goes by file time; make up for an evaluation.

        Workers of the loader leave signals to this process, which saves first.

        Raises:
            Complete: the checkpoint is that of the last step.
        """
        self.keep, args.save_total_limit = args.save_total_limit, None
        loader = kwargs["train_dataloader"].base_dataloader
        loader.worker_init_fn = partial(leave_signals_to_parent, loader.worker_init_fn)
        if state.global_step > 0:
            counted = json.loads((_folder(args, state) / _COUNTERS).read_text(encoding="utf-8"))
            # else num_tokens would start again from 0 in the metrics of a resumed run
            self.trainer._total_train_tokens = counted["num_tokens"]
            self.trainer._total_loss_scalar = self.loss = counted["loss"]
            if counted.get("evaluation_is_due"):
                self.evaluation.catch_up(self.trainer)
        if 0 < state.max_steps <= state.global_step:
            raise Complete

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Check that weights are finite before a stage samples from them.

        Raises:
            TrainingError: a weight is not; names its parameter.
        """
        if not self.run.facts.samples:
            return
        name = _first_broken_weight(kwargs["model"], trained=False)
        if name is not None:
            self._stop(f"the weights of {name}", args, state, rows="")

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Stop before a gradient that is not finite reaches the weights.

        Raises:
            TrainingError: names the parameter, the rows and the checkpoint to go back to.
        """
        model: nn.Module = kwargs["model"]
        # one norm of all: a test of each parameter would wait for the device each time
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not gradients or torch.isfinite(nn.utils.get_total_norm(gradients)).all():
            self.overflows = 0
            return
        self.overflows += 1
        if self.trainer.accelerator.scaler is not None and self.overflows < _OVERFLOWS:
            return
        self._stop(_first_not_finite(model), args, state, rows=self._rows(args, state, **kwargs))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Never save broken weights; after a signal to any process, all of them save and stop.

        The evaluation that would come first may take long; it is left to the resumed run.

        Raises:
            TrainingError: the update of this step left a weight that is not finite.
        """
        name = _first_broken_weight(kwargs["model"], trained=True)
        if name is not None:
            state.global_step -= 1  # Trainer has counted the step already
            rows = self._rows(args, state, **kwargs)
            self._stop(f"the weights of {name} after its update", args, state, rows=rows)
        if self._is_to_stop(args):
            self.evaluation.put_off(args, state, control)
            control.should_save = True
            control.should_training_stop = True
        self.evaluation.begin(args, control)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """After a signal save and stop, unless the last step was saved; that epoch is not over."""
        if self._is_to_stop(args):
            was_due = self.evaluation.is_due
            if ends_an_epoch(state):
                self.evaluation.put_off(args, state, control)
            control.should_evaluate = False
            is_saved = self.saved_step == state.global_step
            control.should_save = not is_saved or (self.evaluation.is_due and not was_due)
            control.should_training_stop = True
        self.evaluation.begin(args, control)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Leave an evaluation after the batch in which a signal came.

        Raises:
            EvaluationStopped: A signal came, to any process.
        """
        if self._is_to_stop(args):
            raise EvaluationStopped

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Let training go on with the random states that it had before."""
        self.evaluation.end()

    def _is_to_stop(self, args: TrainingArguments) -> bool:
        self.signals.came = _agree(self.signals.came, args)
        return self.signals.came is not None

    def _save_stopped_evaluation(self, trainer: Any) -> None:
        """Save the last step as before its evaluation; the one at the end of a run needs no more.

        Unless its step was never saved.
        """
        self.evaluation.is_due = self.evaluation.end()
        if self.evaluation.is_due or not _folder(trainer.args, trainer.state).is_dir():
            trainer._save_checkpoint(trainer.model_wrapped, trial=None)
            trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)

    def _rows(self, args: TrainingArguments, state: TrainerState, **kwargs: Any) -> str:
        """The rows of the step after ``state.global_step``, in words."""
        rows = rows_of_step(
            kwargs["train_dataloader"],
            step=state.global_step,
            accumulation=args.gradient_accumulation_steps,
        )
        counted = self.run.checks.get("train", {}).get("rows")
        same = counted == len(self.trainer.train_dataset)
        if same and not self.run.facts.shuffles_rows(vars(args)):
            return name_rows(rows, unit="training rows")
        return name_rows(
            rows, unit="examples (packed, filtered or shuffled, as the trainer counts)"
        )

    def _stop(self, what: str, args: TrainingArguments, state: TrainerState, *, rows: str) -> None:
        good = last_good(args.output_dir or "", up_to=state.global_step)
        raise TrainingError(
            f"step {state.global_step + 1}: a number that is not finite in {what}{rows}",
            f"the last good checkpoint is {good}; a lower learning_rate, max_grad_norm or another "
            "dtype often helps",
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint once every process has written its part, then rotate."""
        self.saved_step = state.global_step
        # since the last log, each process has the loss of its own rows
        since_log = float(self.trainer.accelerator.gather(self.trainer._tr_loss).mean())
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if not state.is_world_process_zero:
            return
        folder = _folder(args, state)
        loss = self.trainer._total_loss_scalar + since_log
        counters = {
            "num_tokens": self.trainer._total_train_tokens,
            "loss": loss,
            "evaluation_is_due": self.evaluation.is_due,
        }
        write_text(folder / _COUNTERS, json.dumps(counters) + "\n")
        seal(folder)
        rotate(folder.parent, keep=self.keep, best=state.best_model_checkpoint)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or "") / checkpoint_name(state.global_step)


def _agree(number: int | None, args: TrainingArguments) -> int | None:
    """The signal that any process got: a launcher or a user may reach only one of them."""
    if not torch.distributed.is_initialized():
        return number
    seen = torch.tensor(number or 0, device=args.device)
    torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
    return int(seen.item()) or None


def _first_broken_weight(model: nn.Module, *, trained: bool) -> str | None:
    """The first parameter that is not finite, of all or of those that are trained.

    The norm of all weights is computed first: a fused kernel and one wait for the device.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad or not trained]
    weights = [p.detach() for _, p in named if p.is_floating_point()]
    if not weights or torch.isfinite(nn.utils.get_total_norm(weights)).all():
        return None
    return next((name for name, p in named if not torch.isfinite(p).all()), None)


def _first_not_finite(model: nn.Module) -> str:
    """Name what is not finite: a weight before a gradient, which only follows from it."""
    name = _first_broken_weight(model, trained=False)
    if name is not None:
        return f"the weights of {name}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name}"
    return "the sum of all gradients"
