"""The one callback through which every trainer reaches the trackers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.trackers.base import Tracker, TrainerEvent

if TYPE_CHECKING:
    from alignment.runs import Run


class TrackerCallback(TrainerCallback):
    """Passes the events of a Trainer on to a tracker.

    These are the events that the trackers of transformers listen to, plus those that every tracker
    has: on_train_begin starts it, on_log brings its numbers. A test compares them.
    """

    def __init__(self, tracker: Tracker, run: Run) -> None:
        self.tracker = tracker
        self.run = run

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass on that the trainer is complete."""
        self.tracker.on_event(TrainerEvent("on_init_end", args, state, control, kwargs))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the tracker and say what the run is made from."""
        self.tracker.on_event(TrainerEvent("on_train_begin", args, state, control, kwargs))
        self.tracker.resume(step=state.global_step)
        self.tracker.set_config(lineage(self.run))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass on that a step is done."""
        self.tracker.on_event(TrainerEvent("on_step_end", args, state, control, kwargs))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log the numbers of a step."""
        self.tracker.on_event(TrainerEvent("on_log", args, state, control, kwargs))
        self.tracker.log(logs or {}, step=state.global_step)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass on that an evaluation is done; its numbers are logged by `on_log`."""
        self.tracker.on_event(TrainerEvent("on_evaluate", args, state, control, kwargs))

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any,
        **kwargs: Any,
    ) -> None:
        """Pass on that a prediction is done."""
        others = {"metrics": metrics, **kwargs}
        self.tracker.on_event(TrainerEvent("on_predict", args, state, control, others))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass on that a checkpoint is written."""
        self.tracker.on_event(TrainerEvent("on_save", args, state, control, kwargs))

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass on that the model is about to be uploaded."""
        self.tracker.on_event(TrainerEvent("on_push_begin", args, state, control, kwargs))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass on that the last step is done; an evaluation may follow, so `finish` comes later."""
        self.tracker.on_event(TrainerEvent("on_train_end", args, state, control, kwargs))


def lineage(run: Run) -> dict[str, Any]:
    """What a run is and what it is made from, for the config that trackers show."""
    return {
        "stage": run.stage,
        "fingerprint": run.fingerprint,
        "parents": {role: parent.fingerprint for role, parent in run.parents.items()},
        "inputs": {role: [s.sha256 for s in sources] for role, sources in run.inputs.items()},
        "settings": {key: entry["value"] for key, entry in run.settings.items()},
    }
