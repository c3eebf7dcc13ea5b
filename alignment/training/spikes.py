"""A loss that jumps far over what it was: on request, training stops (`max_loss_spike`)."""

import statistics
from collections import deque
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.errors import TrainingError
from alignment.training.checkpoints import last_good

#: Logged losses that the median is taken over, and how many there must be before it is trusted.
WINDOW, ENOUGH = 50, 5


class SpikeGuard(TrainerCallback):
    """Stops if a logged loss is more than ``factor`` times the running median."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.good_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed run remembers the losses before it."""
        self.losses.extend(line["loss"] for line in state.log_history if "loss" in line)
        self.good_step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compare the loss since the last log with the median of those before.

        Raises:
            TrainingError: it is a spike; names its steps and the checkpoint before them.
        """
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        median = statistics.median(self.losses) if self.losses else 0.0
        if len(self.losses) >= ENOUGH and median > 0 and loss > self.factor * median:
            good = last_good(args.output_dir or "", up_to=self.good_step)
            raise TrainingError(
                f"steps {self.good_step + 1} to {state.global_step}: the loss is {loss:.4g}, over "
                f"{self.factor:g} times the median of {median:.4g} (max_loss_spike)",
                f"the last good checkpoint is {good}; look at the rows there, lower "
                "learning_rate or raise max_loss_spike",
            )
        # the median of a window follows a loss that falls, and one outlier does not move it
        self.losses.append(float(loss))
        self.good_step = state.global_step
