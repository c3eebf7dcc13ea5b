"""Train on two processes, of which the second gets a signal in step 2; started by test_guard."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from alignment.errors import Interrupted
from alignment.processes import rank
from alignment.runs.record import Run
from alignment.training.guard import Guard
from alignment.training.signals import StopSignals


class Signal(TrainerCallback):
    """Sends SIGTERM to the second process at the start of step 2."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if rank() == 1 and state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def main(model: str, folder: Path) -> None:
    signals = StopSignals()
    guard = Guard(Run("sft", "out", "f", checks={"train": {"rows": 16}}), signals)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        args=SFTConfig(
            output_dir=str(folder / "out"), max_steps=5, use_cpu=True, bf16=False,
            report_to="none", per_device_train_batch_size=1, disable_tqdm=True,
            ddp_backend="gloo", save_strategy="no",
        ),
        train_dataset=Dataset.from_list([{"text": "one two three"}] * 16),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Signal(), guard],
    )  # fmt: skip
    try:
        with signals.handled(), guard.watching(trainer):
            trainer.train()
    except Interrupted as interruption:
        found = {"signal": interruption.number, "step": trainer.state.global_step}
        (folder / f"rank-{rank()}.json").write_text(json.dumps(found))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
