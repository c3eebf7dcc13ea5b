"""What keeps a run from being lost: sealed checkpoints, signals, and a stop at the first NaN.

Public Trainer hooks only; every stage carries it.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.checkpoints import checkpoints, rotate, seal
from alignment.errors import Interrupted, TrainingError
from alignment.runs import write_text

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: What TRL counts and does not save: the tokens seen, in its metrics as ``num_tokens``.
_COUNTERS = "counters.json"


class Complete(Exception):
    """A resumed run has no step left to make; its weights are loaded."""


class Guard(TrainerCallback):
    """Seals and rotates checkpoints, stops on a signal or on a number that is not finite."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.keep: int | None = None
        self.trainer: Any = None

    @contextmanager
    def watching(self, trainer: Any) -> Iterator[None]:
        """Take SIGTERM and SIGINT while training; the second one ends the process at once.

        Raises:
            Interrupted: at the end, where a signal came; its checkpoint is written by then.
        """
        self.trainer = trainer
        former = {number: signal.signal(number, self._take) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
        if self.signal is not None:
            raise Interrupted(self.signal)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take rotation over from the trainer, which goes by file time; end what is complete."""
        self.keep, args.save_total_limit = args.save_total_limit, None
        if state.global_step > 0:
            counted = json.loads((_folder(args, state) / _COUNTERS).read_text(encoding="utf-8"))
            self.trainer._total_train_tokens = counted["num_tokens"]
        if 0 < state.max_steps <= state.global_step:
            raise Complete

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Stop before a gradient that is not finite reaches the weights.

        Raises:
            TrainingError: which parameter, at which step, and the checkpoint to go back to.
        """
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not gradients or torch.isfinite(nn.utils.get_total_norm(gradients)).all():
            return
        name = _first_not_finite(model)
        saved = checkpoints(Path(args.output_dir or ""))
        raise TrainingError(
            f"step {state.global_step + 1}: a number that is not finite in {name}",
            f"the last good checkpoint is {saved[-1] if saved else 'none yet'}; a lower "
            "learning_rate, max_grad_norm or another dtype often helps",
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After a signal to any process: save, then stop, all of them."""
        self.signal = _agree(self.signal, args)
        if self.signal is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint once every process has written its part, then rotate."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if not state.is_world_process_zero:
            return
        folder = _folder(args, state)
        counters = {"num_tokens": self.trainer._total_train_tokens}
        write_text(folder / _COUNTERS, json.dumps(counters) + "\n")
        seal(folder)
        rotate(folder.parent, keep=self.keep, best=state.best_model_checkpoint)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or "") / f"checkpoint-{state.global_step}"


def _agree(number: int | None, args: TrainingArguments) -> int | None:
    """The signal that any process got: a launcher may reach only one of them."""
    if not torch.distributed.is_initialized():
        return number
    seen = torch.tensor(number or 0, device=args.device)
    torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
    return int(seen.item()) or None


def _first_not_finite(model: nn.Module) -> str:
    """A weight that is broken already comes first: its gradients only follow."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the weights of {name}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name}"
    return "the sum of all gradients"
