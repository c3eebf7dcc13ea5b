"""Metrics that depend neither on the batch size nor on the number of processes.

TRL averages over batches, whatever they hold, and an evaluation on several processes counts some
rows twice. Here each metric of a batch is weighted by what it is a mean of: rows, or tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object, send_to_device  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from alignment.memory.restore import LocalAccelerator
from alignment.processes import leave_signals_to_parent

#: What a metric is, if not a mean over rows.
LOWEST, HIGHEST = "lowest", "highest"
#: Begins the names of the parts of a loss: their means add up to it.
_PART = "loss of "


class Totals:
    """Metrics by name: weighted sums, and lowest and highest values."""

    def __init__(self, units: Mapping[str, str]) -> None:
        self.units = units
        self.sums: dict[str, tuple[float, float]] = {}
        self.extremes: dict[str, float] = {}

    def add(self, name: str, value: float, counts: Mapping[str, float]) -> None:
        """Add the metric of a batch that holds so many of each unit."""
        unit = self.units.get(name, "rows")
        if unit in (LOWEST, HIGHEST):
            extreme = min if unit == LOWEST else max
            self.extremes[name] = extreme(value, self.extremes.get(name, value))
        else:
            self._add(name, value * counts[unit], counts[unit])

    def add_losses(self, losses: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Add the parts of a loss, each named for its unit."""
        for unit, value in losses.items():
            self._add(_PART + unit, value * counts[unit], counts[unit])

    def merge(self, others: Iterable[Totals]) -> None:
        """Add those of other processes."""
        for other in others:
            for name, (total, count) in other.sums.items():
                self._add(name, total, count)
            for name, value in other.extremes.items():
                self.add(name, value, {})

    def means(self) -> dict[str, float]:
        """The metrics of all batches."""
        means = {name: total / count for name, (total, count) in self.sums.items() if count}
        parts = [means.pop(name) for name in list(means) if name.startswith(_PART)]
        found = self.extremes | means | ({"loss": sum(parts)} if parts else {})
        if {"rewards/chosen", "rewards/rejected"} <= found.keys():
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        return found

    def _add(self, name: str, total: float, count: float) -> None:
        before = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = before[0] + total, before[1] + count


class OwnBatches(Sampler[list[int]]):
    """The batches of one process, each row once; all processes get equally many batches.

    Processes wait for each other in a forward (DDP, FSDP, ZeRO-3). One that has no batch left gets
    the first row again, which does not count: only the first ``real`` batches do. A last batch of
    fewer than ``least`` rows joins the one before.
    """

    def __init__(self, rows: int, *, size: int, rank: int, processes: int, least: int = 1) -> None:
        batches = [list(range(start, min(start + size, rows))) for start in range(0, rows, size)]
        if len(batches) > 1 and len(batches[-1]) < least:
            batches[-2:] = [batches[-2] + batches[-1]]
        self.own = batches[rank::processes]
        self.real = len(self.own)
        self.own += [[0]] * (-(-len(batches) // processes) - self.real)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


class WeightedMetrics:
    """A mixin for TRL's trainers: their metrics, weighted by what a batch holds.

    ``units`` has what a metric is a mean of, if not of rows; ``loss_unit`` the same for the loss;
    ``least_rows`` is how many a batch of an evaluation needs.
    """

    units: Mapping[str, str] = {}
    loss_unit = "rows"
    least_rows = 1
    model: Any
    args: Any
    accelerator: Any
    _metrics: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.totals = {mode: Totals(self.units) for mode in ("train", "eval")}
        self.evaluated = 0
        super().__init__(*args, **kwargs)

    def count(self, inputs: Mapping[str, Any]) -> dict[str, Tensor | int]:
        """How many of each unit a batch holds."""
        raise NotImplementedError

    def losses(self, model: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """The parts of the loss of a batch, by unit."""
        return {self.loss_unit: self.compute_loss(model, inputs)}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss as TRL does, and keep the metrics of the batch with their weights."""
        mode = "train" if self.model.training else "eval"
        kept, self._metrics[mode] = self._metrics[mode], defaultdict(list)
        try:
            loss = super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]
        finally:
            found, self._metrics[mode] = self._metrics[mode], kept
        kept["num_tokens"] = found.pop("num_tokens")
        if mode == "train" and isinstance(self.accelerator, LocalAccelerator):
            return loss  # a batch that is tried before training leaves no trace
        counts = self._counts(inputs)
        for name, (value,) in found.items():
            self.totals[mode].add(name, value, counts)
        return loss

    def _counts(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        """The units of a batch: in training of all processes, whose metrics TRL has gathered."""
        counted = self.count(inputs)
        numbers = torch.tensor([float(x) for x in counted.values()], device=self.args.device)
        whole = self.accelerator.reduce(numbers, reduction="sum")
        return dict(zip(counted, whole.tolist(), strict=True))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with the weighted metrics in place of means of batches."""
        if self.model.training:
            self._hand_over("train")
        super().log(logs, start_time)  # type: ignore[misc]

    def _hand_over(self, mode: str) -> dict[str, float]:
        """Put the metrics where TRL logs them from, and begin again."""
        found = self.totals[mode].means()
        self._metrics[mode].update({name: [x] for name, x in found.items() if name != "loss"})
        self.totals[mode] = Totals(self.units)
        return found

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Batches in which every row comes once, however many processes there are."""
        this: Any = self
        rows = this.eval_dataset if eval_dataset is None else eval_dataset
        batches = OwnBatches(
            len(rows),
            size=self.args.eval_batch_size,
            rank=self.args.process_index,
            processes=self.args.world_size,
            least=self.least_rows,
        )
        return DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=this.data_collator,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=partial(leave_signals_to_parent, None),
            pin_memory=self.args.dataloader_pin_memory,
        )

    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate as Trainer does; the loss and the metrics are those of all rows together."""
        self.totals["eval"], self.evaluated = Totals(self.units), 0
        output = super().evaluation_loop(dataloader, *args, **kwargs)  # type: ignore[misc]
        mine, self.totals["eval"] = self.totals["eval"], Totals(self.units)
        self.totals["eval"].merge(gather_object([mine]))
        found = self._hand_over("eval")
        if "loss" in found:
            output.metrics[f"{kwargs['metric_key_prefix']}_loss"] = found["loss"]
        return output

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[None, None, None]:
        """Add a batch to the totals of this process; Trainer gets no mean of it."""
        this: Any = self
        inputs = send_to_device(inputs, self.args.device)
        totals, whole = self.totals["eval"], self.accelerator
        if self.evaluated >= this.callback_handler.eval_dataloader.batch_sampler.real:
            self.totals["eval"] = Totals(self.units)  # of a row that counts elsewhere
        self.accelerator = LocalAccelerator(whole)
        try:
            with torch.no_grad(), this.compute_loss_context_manager():
                losses = {unit: float(x) for unit, x in self.losses(model, inputs).items()}
            self.totals["eval"].add_losses(losses, self._counts(inputs))
        finally:
            self.accelerator, self.totals["eval"] = whole, totals
        self.evaluated += 1
        return None, None, None
