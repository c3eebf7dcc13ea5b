"""An evaluation that a signal prevented or cut short: the resumed run makes up for it."""

from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from alignment.memory.restore import RandomStates
from alignment.runs import checkpoint_name


class EvaluationStopped(Exception):
    """A signal came in an evaluation; its loop was left."""


class PendingEvaluation:
    """Whether the evaluation of the last step is still to be done, and the random states before it.

    An evaluation leaves the random states of training as they were, so that training goes on to the
    same bits whether the evaluation was done before or after a resume.
    """

    def __init__(self) -> None:
        self.is_due = False
        self._states: RandomStates | None = None

    def begin(self, args: TrainingArguments, control: TrainerControl) -> None:
        """Keep the random states if an evaluation follows."""
        self._states = RandomStates(args) if control.should_evaluate else None

    def end(self) -> bool:
        """Put the random states back; return whether an evaluation of training had begun."""
        states, self._states = self._states, None
        if states is not None:
            states.put_back()
        return states is not None

    def put_off(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl
    ) -> None:
        """Leave out the evaluation that would follow this step, or the epoch that it ends."""
        ends_epoch = args.eval_strategy == "epoch" and ends_an_epoch(state)
        self.is_due = self.is_due or control.should_evaluate or ends_epoch
        control.should_evaluate = False

    def catch_up(self, trainer: Any) -> None:
        """Evaluate as after the step of the checkpoint that training resumes from."""
        folder = Path(trainer.args.output_dir)
        before = RandomStates(trainer.args)
        trainer._load_rng_state(str(folder / checkpoint_name(trainer.state.global_step)))
        metrics = trainer._evaluate(None, None)
        trainer._determine_best_metric(metrics=metrics, trial=None)
        before.put_back()
        best = trainer.state.best_global_step
        if best and (folder / checkpoint_name(best)).is_dir():
            trainer.state.best_model_checkpoint = str(folder / checkpoint_name(best))


def ends_an_epoch(state: TrainerState) -> bool:
    """Whether the last step was the last one of an epoch."""
    return float(state.epoch or 0.0).is_integer()
