"""Detect lack of memory early: try the longest batch before step 1.

With `auto_find_batch_size` a batch that does not fit is halved, and twice as many make up a step,
until it fits: the effective batch stays what was asked for. The search of transformers, which is
switched off, would lower it without notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from accelerate.utils import DistributedType, broadcast_object_list  # type: ignore[import-untyped]
from accelerate.utils.memory import (  # type: ignore[import-untyped]
    clear_device_cache,
    should_reduce_batch_size,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.errors import ConfigError, TrainingError
from alignment.memory.batch_size import keep_effective_batch, next_smaller, sizes_after, sizes_of
from alignment.memory.longest_batch import LongestBatch, LongestResponses, LongestRows
from alignment.memory.restore import RandomStates, memory_of_later_steps, undone
from alignment.processes import is_main, rank

if TYPE_CHECKING:
    from alignment.runs import Run

_DDP = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


@dataclass(frozen=True, slots=True)
class Tried:
    """The needs of the longest batch; bytes of memory only if there is a GPU."""

    batch: str
    tokens: int
    seconds: float
    peak_bytes: int | None = None
    device_bytes: int | None = None


class _Smaller(Exception):
    """Raised to start training again with batches of this size."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def train(
    trainer: Any, run: Run, *, folder: Path, checkpoint: str | None, finds: bool, tries: bool
) -> Any:
    """Try the longest batch, then train.

    Args:
        trainer: The trainer of any stage.
        run: Its record. The result and the batch sizes are written to it at once, so that an
            interrupted run continues with them.
        folder: Where the record is.
        checkpoint: What to resume from.
        finds: Whether smaller batches may be used (`auto_find_batch_size`).
        tries: Whether a batch is tried at all (`preflight`).

    Returns:
        What `trainer.train` returns.

    Raises:
        ConfigError: The longest batch does not fit.
        TrainingError: A later step ran out of memory.
    """
    if tries:
        # Before all other callbacks: if training has to start again, none of them has started.
        trainer.callback_handler.callbacks.insert(0, Preflight(trainer, run, finds=finds))
    random_states = RandomStates(trainer.args)
    try:
        try:
            return trainer.train(resume_from_checkpoint=checkpoint)
        except _Smaller as found:
            size = found.size
        # else the run would differ from one that was given this size
        random_states.put_back()
        _use_size(trainer, size)
        # at once: a run that is killed must resume with this size, or its bits change
        _record_sizes(run, folder, trainer.args)
        return trainer.train(resume_from_checkpoint=checkpoint)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reported = _out_of_memory_later(trainer, run, folder, finds=finds)
        if not is_main():  # the main process does not know of it, and the launcher will end it
            click.echo(f"error: process {rank()}: {reported}", err=True)
        raise reported from error


class Preflight(TrainerCallback):
    """Tries the longest batch at the start of training, when everything else is in memory."""

    def __init__(self, trainer: Any, run: Run, *, finds: bool) -> None:
        self.trainer = trainer
        self.run = run
        self.stage = run.facts
        self.finds = finds
        self.is_done = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Try the longest batch, and smaller ones if they may be used.

        Raises:
            ConfigError: None of them fits.
        """
        if self.is_done or 0 < state.max_steps <= state.global_step:
            return
        self.is_done = True
        reason = _reason_to_skip(self.trainer)
        if reason is not None:
            if self.finds:
                raise ConfigError(
                    f"auto_find_batch_size: no batch can be tried {reason}", "leave it out"
                )
            _print(f"preflight: skipped {reason}")
            return
        size = self._largest(self._longest(kwargs["train_dataloader"]))
        if size != args.per_device_train_batch_size:
            _print(_describe_change(args, size))
            raise _Smaller(size)

    def _longest(self, loader: Any) -> LongestBatch:
        if not self.stage.samples:
            return LongestRows(self.trainer, loader, unit=self._unit(len(loader.dataset)))
        longest = [0]
        if is_main():  # it counted the rows; those over the limit were rejected or left out
            counted = self.run.checks["train"]
            longest = [min(counted["longest"], counted["limit"] or counted["longest"])]
        batch = LongestResponses(self.trainer, prompt_tokens=broadcast_object_list(longest)[0])
        if not self._fits(batch.sample, accumulates=False)[0]:
            raise ConfigError(
                f"{self._where()}: sampling {batch.describe_rollout()} at once needs "
                f"more memory than this device has{_describe_peak(self.trainer.args)}",
                "set a smaller steps_per_generation or max_completion_length, or use_vllm",
            )
        return batch

    def _largest(self, batch: LongestBatch) -> int:
        """The largest of the allowed sizes that fits."""
        args = self.trainer.args
        size: int = args.per_device_train_batch_size
        while True:
            accumulates = sizes_after(args, size)["gradient_accumulation_steps"] > 1
            fits, seconds = self._fits(partial(batch.run, size=size), accumulates=accumulates)
            if fits:
                break
            smaller = next_smaller(size)
            if not self._may_change() or smaller is None:
                raise self._too_large(batch, size)
            size = smaller
        tried = Tried(batch.describe(size), batch.tokens, round(seconds, 3), *_memory(args))
        self.run.checks["preflight"] = asdict(tried)
        _print(
            f"preflight: {tried.batch} went through forward and backward in {seconds:.1f} s"
            f"{_describe_peak(args)}"
        )
        return size

    def _fits(self, work: Callable[[Any], None], *, accumulates: bool) -> tuple[bool, float]:
        """Whether work on a trainer fits into the memory of every process, and its seconds."""
        trainer, device = self.trainer, self.trainer.args.device
        is_short, started = False, time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            with (
                undone(trainer) as lent,
                memory_of_later_steps(trainer, accumulates=accumulates),
            ):
                work(lent)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            is_short = True
        seconds = time.perf_counter() - started
        # the traceback of an error may hold tensors of the batch in a cycle
        clear_device_cache(garbage_collection=True)
        return not _in_any_process(is_short, device), seconds

    def _may_change(self) -> bool:
        """Whether smaller batches may be used.

        A checkpoint within a rollout counts its micro-batches, so their size must stay.
        """
        has_begun = self.trainer.state.global_step > 0
        return self.finds and (self.stage.resumes_with_other_batch or not has_begun)

    def _too_large(self, batch: LongestBatch, size: int) -> ConfigError:
        args, smaller = self.trainer.args, next_smaller(size)
        ways = []
        if smaller is not None:
            sizes = sizes_after(args, smaller)
            if "steps_per_generation" not in self.run.settings:  # then it follows the accumulation
                sizes.pop("steps_per_generation", None)
            ways.append(" with ".join(f"{key} {value}" for key, value in sizes.items()))
        if not args.activation_checkpointing:
            ways.append("activation_checkpointing")
        if smaller is None and "use_peft" not in self.run.settings:
            ways.append("use_peft")
        ways.append(f"a smaller {self.stage.length_key}")
        if smaller is not None and not self.finds:
            ways.append("auto_find_batch_size")
        return ConfigError(
            f"{self._where()}: {batch.describe(size)} need more memory than this device has"
            f"{_describe_peak(args)}",
            f"set {', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else f"set {ways[0]}",
        )

    def _where(self) -> str:
        return f"out of memory before step {self.trainer.state.global_step + 1}"

    def _unit(self, count: int) -> str:
        """How messages name a row: by its file if the rows are those of one file in order."""
        if self.stage.shuffles_rows(vars(self.trainer.args)):
            return "shuffled row"
        sources = self.run.inputs.get("train", [])
        if len(sources) == 1 and sources[0].rows == count and not sources[0].dropped:
            return f"{Path(sources[0].path).name} row"
        same = self.run.checks.get("train", {}).get("rows") == count
        return "training row" if same else "training example"


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a device or of this process."""
    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


def _reason_to_skip(trainer: Any) -> str | None:
    """Why no batch can be tried and undone; None if it can."""
    kind = trainer.accelerator.distributed_type
    if kind not in _DDP or trainer.is_distributed_loading_by_transformers:
        return f"under {kind.value.lower()}, whose processes share each forward"
    if trainer.args.ddp_static_graph:
        return "with ddp_static_graph, which counts every backward"
    if trainer.args.torch_compile:
        return "with torch_compile, which compiles for the first batch that it sees"
    if trainer.args.device.type == "mps":
        return "on MPS, whose random state cannot be read"
    return None


def _use_size(trainer: Any, size: int) -> None:
    """Reset everything on a trainer that depends on the batch size."""
    keep_effective_batch(trainer.args, size)
    trainer._train_batch_size = trainer.args.train_batch_size
    if trainer.neftune_noise_alpha is not None:
        trainer.neftune_hook_handle.remove()  # train() registers it again


def _record_sizes(run: Run, folder: Path, args: TrainingArguments) -> None:
    run.checks["batch"] = sizes_of(args)
    if is_main():
        run.write(folder)


def _out_of_memory_later(trainer: Any, run: Run, folder: Path, *, finds: bool) -> TrainingError:
    """The error for a step that ran out of memory although the longest batch had fit."""
    args, smaller = trainer.args, next_smaller(trainer.args.per_device_train_batch_size)
    where = f"step {trainer.state.global_step + 1}: out of memory{_describe_peak(args)}"
    resumes = run.facts.resumes_with_other_batch
    if smaller is None:
        return TrainingError(where, "start again with activation_checkpointing or shorter rows")
    if finds and resumes:
        change = _describe_change(args, smaller)
        keep_effective_batch(args, smaller)
        _record_sizes(run, folder, args)
        return TrainingError(where, f"continue with --resume, which uses {change}")
    sizes = " ".join(f"--{key} {value}" for key, value in sizes_after(args, smaller).items())
    how = "continue with --resume --resume_anyway" if resumes else "start again with --overwrite"
    return TrainingError(where, f"{how} {sizes}")


def _describe_change(args: Any, size: int) -> str:
    before, after = sizes_of(args), sizes_after(args, size)
    changed = ", ".join(f"{key} {before[key]} -> {after[key]}" for key in after)
    total = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return f"{changed} (auto_find_batch_size; the effective batch stays {total})"


def _memory(args: Any) -> tuple[int, int] | tuple[()]:
    """The peak memory since the last reset and the memory of the device; GPUs only."""
    if args.device.type != "cuda":
        return ()
    total = torch.cuda.get_device_properties(args.device).total_memory
    return torch.cuda.max_memory_allocated(args.device), total


def _describe_peak(args: Any) -> str:
    memory = _memory(args)
    if not memory:
        return ""
    peak, total = (f"{x / 2**30:.1f}" for x in memory)
    return f", peak {peak} of {total} GiB"


def _in_any_process(is_short: bool, device: torch.device) -> bool:
    """Whether memory ran out in any process."""
    if not torch.distributed.is_initialized():
        return is_short
    found = torch.tensor(int(is_short), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found.item())


def _print(line: str) -> None:
    if is_main():
        click.echo(line)
