"""One callback for every stage: metrics.jsonl always, W&B where it is asked for."""

import json
import logging
import math
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.disk import write_text
from alignment.runs.files import METRICS
from alignment.runs.record import Run
from alignment.secrets import redact_text

logger = logging.getLogger(__name__)


class Recorder(TrainerCallback):
    """Writes each logged step to ``metrics.jsonl`` and puts the lineage into the W&B config."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run = run
        self.path = folder / METRICS

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget lines past the checkpoint that a run resumes from; tell W&B where it came from."""
        if not state.is_world_process_zero:
            return
        _drop_after(self.path, state.global_step)
        if "wandb" in (args.report_to or []):
            try:
                _tell_wandb(self.run)
            except Exception as error:  # whatever a tracker raises, training goes on
                logger.warning("W&B does not know the lineage of this run: %s", error)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line: step, epoch, time in seconds since 1970, then what was logged."""
        if not state.is_world_process_zero or logs is None:
            return
        line = {"step": state.global_step, "epoch": state.epoch, "time": time.time()}
        line |= {key: _loggable(value) for key, value in logs.items() if key != "epoch"}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bring the lines to the disk before the checkpoint counts that they lead up to."""
        if state.is_world_process_zero and self.path.is_file():
            with self.path.open("ab") as file:
                os.fsync(file.fileno())


class Tolerant(TrainerCallback):
    """A tracker's callback whose errors are said once and end nothing.

    Where the tracker cannot even begin, W&B is asked once more, offline.
    """

    def __init__(self, inner: TrainerCallback) -> None:
        self.inner = inner
        self.failed = False
        for event in (name for name in dir(TrainerCallback) if name.startswith("on_")):
            setattr(self, event, partial(self._call, event))

    def _call(self, event: str, *args: Any, **kwargs: Any) -> Any:
        if self.failed and event != "on_train_begin":
            return None
        try:
            return getattr(self.inner, event)(*args, **kwargs)
        except Exception as error:
            if event == "on_train_begin" and self._go_offline():
                logger.warning("W&B: %s; this run is written offline", _line(error))
                return self._call(event, *args, **kwargs)
            self.failed = True
            name = type(self.inner).__name__
            logger.warning("%s failed and is left out from now on: %s", name, _line(error))
            return None

    def _go_offline(self) -> bool:
        """Whether this is W&B online, which then is offline from here on."""
        online = os.environ.get("WANDB_MODE") not in ("offline", "disabled")
        if type(self.inner).__name__ != "WandbCallback" or not online:
            return False
        import wandb

        os.environ["WANDB_MODE"] = "offline"
        try:
            wandb.teardown()  # it reads its environment once, and holds the id of the run
        except Exception as error:
            logger.warning("W&B: %s", _line(error))
        self.inner = type(self.inner)()  # the one that failed believes that it has begun
        return True


def tolerate_trackers(callbacks: list[TrainerCallback]) -> None:
    """Put every tracker of transformers behind a `Tolerant`, in place."""
    for place, callback in enumerate(callbacks):
        if type(callback).__module__.startswith("transformers.integrations"):
            callbacks[place] = Tolerant(callback)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _tell_wandb(run: Run) -> None:
    import wandb

    if wandb.run is None:
        return
    wandb.config.update(
        {
            "stage": run.stage,
            "fingerprint": run.fingerprint,
            "parents": {role: parent.fingerprint for role, parent in run.parents.items()},
            "inputs": {role: [s.sha256 for s in sources] for role, sources in run.inputs.items()},
            "settings": {key: entry["value"] for key, entry in run.settings.items()},
        },
        allow_val_change=True,
    )


def _loggable(value: Any) -> Any:
    """JSON knows no NaN and no infinity; they become null. Texts come without keys."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | bool | None) else redact_text(str(value))


def _drop_after(path: Path, step: int) -> None:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _step(line) <= step]
    write_text(path, "".join(kept))


def _step(line: str) -> float:
    """The step of a line; a line that a fault tore belongs to none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
