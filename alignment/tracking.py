"""One callback for every stage: metrics.jsonl always, W&B where it is asked for."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.runs import METRICS, Run, write_text


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
            _tell_wandb(self.run)

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
        line |= {key: _number(value) for key, value in logs.items() if key != "epoch"}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bring the lines to the disk before the checkpoint counts that they lead up to."""
        if state.is_world_process_zero and self.path.is_file():
            with self.path.open("ab") as file:
                os.fsync(file.fileno())


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


def _number(value: Any) -> Any:
    """JSON knows no NaN and no infinity; they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | bool | None) else str(value)


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
