"""Stop when held-out rows no longer improve; and what a resumed run needs for its mean loss."""

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.training.guard import Complete

logger = logging.getLogger(__name__)


class EarlyStopping(TrainerCallback):
    """Stops after so many evaluations without a better value of the metric for the best model.

    It counts in the history that every checkpoint holds, so a resumed run stops at the same step.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a resumed run that had stopped.

        Raises:
            Complete: its checkpoint is that of the last step.
        """
        if self._is_over(args, state):
            raise Complete

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop if the last evaluations brought nothing better."""
        if self._is_over(args, state) and not control.should_training_stop:
            control.should_training_stop = True
            if state.is_world_process_zero:
                logger.warning(
                    "stopped at step %d: %s was best %d evaluations ago",
                    state.global_step, _key(args), self.patience,
                )  # fmt: skip

    def _is_over(self, args: TrainingArguments, state: TrainerState) -> bool:
        key = _key(args)
        values = [line[key] for line in state.log_history if key in line]
        if not values:
            return False
        best = max(values) if args.greater_is_better else min(values)
        return len(values) - 1 - values.index(best) >= self.patience


class WholeLoss(TrainerCallback):
    """Lets `train_loss` be the mean over the whole run, also if it was resumed.

    `Guard` gives the trainer the sum of the losses before; Trainer divides by the steps since.
    """

    def __init__(self) -> None:
        self.start = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note where a resumed run starts."""
        self.start = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Divide by all steps."""
        if logs and "train_loss" in logs and state.global_step:
            logs["train_loss"] *= (state.global_step - self.start) / state.global_step


def _key(args: TrainingArguments) -> str:
    return "eval_" + str(args.metric_for_best_model).removeprefix("eval_")
