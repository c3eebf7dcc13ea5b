"""A rollout in use: which rows come next, and how many tokens their mini-batch has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignment.errors import ConfigError
from alignment.ppo.rollout import Rollout, plan_epoch

if TYPE_CHECKING:
    from alignment.ppo import math
    from alignment.ppo.config import PPOConfig


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward, and the tokens of its whole mini-batch over all processes."""

    rows: Rollout
    num_tokens: float


class RolloutBuffer:
    """Hands out the micro-batches of a rollout, epoch after epoch, each in a new order.

    Steps count forward passes of training from the start of the run; a rollout serves
    `num_ppo_epochs * steps_per_generation` of them.

    Args:
        args: The keys of the run.
        reduce: Sums over processes.
    """

    def __init__(self, args: PPOConfig, reduce: math.Reduce) -> None:
        self.args = args
        self.reduce = reduce
        self.rollout: Rollout | None = None
        self.number = 0
        self.plan: list[Tensor] = []
        self.mini_tokens: list[float] = []

    @property
    def per_epoch(self) -> int:
        """Micro-batches of one pass; read each time, since a smaller batch that fits is another."""
        return int(self.args.steps_per_generation)

    @property
    def per_rollout(self) -> int:
        """Micro-batches of all passes over a rollout."""
        return self.per_epoch * self.args.num_ppo_epochs

    def place(self, step: int) -> int:
        """Micro-batches of the rollout that were used before a step; at 0 a new one is due."""
        return step % self.per_rollout

    def put(self, rollout: Rollout, *, number: int) -> None:
        """Take a new rollout, the `number`-th of the run."""
        self.rollout, self.number = rollout, number

    def micro_batch(self, step: int) -> MicroBatch:
        """Return the rows of a step; the first step of an epoch shuffles them."""
        assert self.rollout is not None
        epoch, place = divmod(self.place(step), self.per_epoch)
        if place == 0 or not self.plan:
            self.start_epoch(epoch)
        mini = place // self.args.gradient_accumulation_steps
        return MicroBatch(self.rollout.rows(self.plan[place]), self.mini_tokens[mini])

    def start_epoch(self, epoch: int) -> None:
        """Order the rows of an epoch and count the tokens of its mini-batches."""
        assert self.rollout is not None
        self.plan = self.make_plan(self.rollout, number=self.number, epoch=epoch)
        size = self.args.gradient_accumulation_steps
        # a mini-batch divides by its own tokens, so that accumulating equals one large batch
        minis = [torch.cat(self.plan[at : at + size]) for at in range(0, len(self.plan), size)]
        counts = torch.stack([self.rollout.response_mask[mini].sum() for mini in minis])
        self.mini_tokens = self.reduce(counts.float()).tolist()

    def make_plan(self, rollout: Rollout, *, number: int, epoch: int) -> list[Tensor]:
        """Return the rows of each micro-batch; the same for the same run, rollout and epoch."""
        micro = len(rollout) // self.per_epoch
        return plan_epoch(
            rollout.attention_mask.sum(dim=1),
            micro_size=micro,
            mini_size=micro * self.args.gradient_accumulation_steps,
            # nothing of it is state: a resumed run draws the same order without any
            seed=(self.args.seed, self.args.process_index, number, epoch),
        )

    def save(self, folder: Path, *, step: int) -> None:
        """Write the rollout to a checkpoint, one file per process, if it is still in use."""
        if self.rollout is not None and self.place(step):
            self.rollout.save(self._file(folder))

    def load(self, folder: Path, *, step: int, number: int, device: torch.device) -> None:
        """Read back the rollout of a checkpoint within it.

        Raises:
            ConfigError: this process has no file there.
        """
        if not self.place(step):
            return
        path = self._file(folder)
        if not path.is_file():
            raise ConfigError(
                f"{folder}: {path.name} is missing, and the checkpoint is within a rollout",
                "resume with the number of processes that saved it",
            )
        self.put(Rollout.load(path, device=device), number=number)
        # The order of the epoch is not saved: seed, rollout and epoch decide it.
        self.start_epoch(self.place(step) // self.per_epoch)

    def _file(self, folder: Path) -> Path:
        return folder / f"rollout-{self.args.process_index}.safetensors"
