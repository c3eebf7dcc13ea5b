"""Out of memory is foreseen: the longest batch is tried before step 1.

With `auto_find_batch_size` a batch that does not fit is halved, and twice as many make up a step,
until it fits: the effective batch stays what was asked for. transformers' own way, which is
switched off, would lower it without a word.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from alignment.memory.longest_batch import ResponsesTrial, RowsTrial, Trial
from alignment.memory.restore import RandomStates, alone, standing_memory, traceless
from alignment.processes import is_main, rank
from alignment.runs.record import Run

_DDP = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the longest batch took; bytes of memory only where there is a GPU."""

    batch: str
    tokens: int
    seconds: float
    peak_bytes: int | None = None
    device_bytes: int | None = None


class _Smaller(Exception):
    """Training has to begin again with batches of this size."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def train(
    trainer: Any, run: Run, *, folder: Path, checkpoint: str | None, finds: bool, tries: bool
) -> Any:
    """Train, after the longest batch was tried.

    Args:
        trainer: Any of ours.
        run: Its record; gets what was seen and the sizes that were found, which are written at once
            so that a run cut short goes on with them.
        folder: Where the record is.
        checkpoint: What to resume from.
        finds: Whether smaller batches may be taken (`auto_find_batch_size`).
        tries: Whether a batch is tried at all (`preflight`).

    Returns:
        What `trainer.train` returns.

    Raises:
        ConfigError: the longest batch does not fit.
        TrainingError: memory ran out all the same, in a later step.
    """
    if tries:
        # before all others: where training has to begin again, none of them has begun
        trainer.callback_handler.callbacks.insert(0, Preflight(trainer, run, finds=finds))
    random_states = RandomStates(trainer.args)
    try:
        try:
            return trainer.train(resume_from_checkpoint=checkpoint)
        except _Smaller as found:
            size = found.size
        random_states.put_back()
        _take_size(trainer, size)
        _record_sizes(run, folder, trainer.args)
        return trainer.train(resume_from_checkpoint=checkpoint)
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        told = _late(trainer, run, folder, finds=finds)
        if not is_main():  # which knows nothing of it, and is ended by the launcher
            click.echo(f"error: process {rank()}: {told}", err=True)
        raise told from error


class Preflight(TrainerCallback):
    """Tries the longest batch at the start of training, where everything else stands in memory."""

    def __init__(self, trainer: Any, run: Run, *, finds: bool) -> None:
        self.trainer = trainer
        self.run = run
        self.finds = finds
        self.is_done = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Try the longest batch, and smaller ones where they may be taken.

        Raises:
            ConfigError: none of them fits.
        """
        if self.is_done or 0 < state.max_steps <= state.global_step:
            return
        self.is_done = True
        reason = _left_out(self.trainer)
        if reason is not None:
            if self.finds:
                raise ConfigError(f"auto_find_batch_size: {reason}", "leave it out")
            _tell(f"preflight: left out {reason}")
            return
        size = self._largest(self._trial(kwargs["train_dataloader"]))
        if size != args.per_device_train_batch_size:
            _tell(_describe_change(args, size))
            raise _Smaller(size)

    def _trial(self, loader: Any) -> Trial:
        if self.run.stage != "ppo":
            return RowsTrial(self.trainer, loader, unit=self._unit(len(loader.dataset)))
        longest = [0]
        if is_main():  # which counted the rows; those over the limit were refused or left out
            counted = self.run.checks["train"]
            longest = [min(counted["longest"], counted["limit"] or counted["longest"])]
        trial = ResponsesTrial(self.trainer, prompt_tokens=broadcast_object_list(longest)[0])
        if not self._fits(trial.generate, accumulates=False)[0]:
            raise ConfigError(
                f"{self._where()}: sampling {trial.describe_rollout()} at once needs "
                f"more than this device has{_describe_peak(self.trainer.args)}",
                "set a smaller steps_per_generation or max_completion_length, or use_vllm",
            )
        return trial

    def _largest(self, trial: Trial) -> int:
        """The largest batch that fits, of those that may be taken."""
        args = self.trainer.args
        size: int = args.per_device_train_batch_size
        may_change = self.finds and not self._is_within_ppo()
        while True:
            accumulates = sizes_after(args, size)["gradient_accumulation_steps"] > 1
            fits, seconds = self._fits(lambda: trial.run(size), accumulates=accumulates)  # noqa: B023
            if fits:
                break
            smaller = next_smaller(size)
            if not may_change or smaller is None:
                raise self._too_much(trial, size)
            size = smaller
        seen = Seen(trial.describe(size), trial.tokens, round(seconds, 3), *_memory(args))
        self.run.checks["preflight"] = asdict(seen)
        _tell(
            f"preflight: {seen.batch} went through forward and backward in {seconds:.1f} s"
            f"{_describe_peak(args)}"
        )
        return size

    def _fits(self, work: Callable[[], None], *, accumulates: bool) -> tuple[bool, float]:
        """Whether work fits into the memory of every process, and its seconds."""
        trainer, device = self.trainer, self.trainer.args.device
        short, started = False, time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            with (
                traceless(trainer),
                alone(trainer.accelerator),
                standing_memory(trainer, accumulates=accumulates),
            ):
                work()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            short = True
        seconds = time.perf_counter() - started
        clear_device_cache(garbage_collection=True)
        return not _anywhere(short, device), seconds

    def _too_much(self, trial: Trial, size: int) -> ConfigError:
        args, smaller = self.trainer.args, next_smaller(size)
        ways = []
        if smaller is not None:
            sizes = sizes_after(args, smaller)
            if self.run.stage != "ppo" or "steps_per_generation" not in self.run.settings:
                sizes.pop("steps_per_generation", None)
            ways.append(" with ".join(f"{key} {value}" for key, value in sizes.items()))
        if not args.activation_checkpointing:
            ways.append("activation_checkpointing")
        if smaller is None and "use_peft" not in self.run.settings:
            ways.append("use_peft")
        ways.append(f"a smaller {'max_completion' if self.run.stage == 'ppo' else 'max'}_length")
        if smaller is not None and not self.finds:
            ways.append("auto_find_batch_size")
        return ConfigError(
            f"{self._where()}: {trial.describe(size)} need more than this device has"
            f"{_describe_peak(args)}",
            f"set {', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else f"set {ways[0]}",
        )

    def _where(self) -> str:
        return f"out of memory before step {self.trainer.state.global_step + 1}"

    def _is_within_ppo(self) -> bool:
        """Whether a checkpoint of PPO counts micro-batches of the size that it was saved with."""
        return self.run.stage == "ppo" and self.trainer.state.global_step > 0

    def _unit(self, count: int) -> str:
        """What rows are called: by their file where they are its rows one by one."""
        sources = self.run.inputs.get("train", [])
        if len(sources) == 1 and sources[0].rows == count and not sources[0].dropped:
            return f"{Path(sources[0].path).name} row"
        same = self.run.checks.get("train", {}).get("rows") == count
        return "training row" if same else "training example"


def is_shortage(error: Exception) -> bool:
    """Whether memory ran out, on a device or of this process."""
    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


def _left_out(trainer: Any) -> str | None:
    """Why no batch can be tried without leaving a trace; None where it can."""
    kind = trainer.accelerator.distributed_type
    if kind not in _DDP or trainer.is_distributed_loading_by_transformers:
        return f"under {kind.value.lower()}, whose processes share each forward"
    if trainer.args.ddp_static_graph:
        return "with ddp_static_graph, which counts every backward"
    if trainer.args.torch_compile:
        return "with torch_compile, which compiles for the first batch that it sees"
    if trainer.args.device.type == "mps":
        return "on MPS, which tells no random state of a device"
    return None


def _take_size(trainer: Any, size: int) -> None:
    """Make everything on a trainer that depends on the batch what it would have been."""
    keep_effective_batch(trainer.args, size)
    trainer._train_batch_size = trainer.args.train_batch_size
    if trainer.neftune_noise_alpha is not None:
        trainer.neftune_hook_handle.remove()  # train() hangs it on again
    if "buffer" in vars(trainer):  # PPO's
        trainer.buffer = type(trainer.buffer)(trainer.args, trainer.buffer.reduce)


def _record_sizes(run: Run, folder: Path, args: TrainingArguments) -> None:
    run.checks["batch"] = sizes_of(args)
    if is_main():
        run.write(folder)


def _late(trainer: Any, run: Run, folder: Path, *, finds: bool) -> TrainingError:
    """Memory ran out in a step, so what comes next has to be smaller."""
    args, smaller = trainer.args, next_smaller(trainer.args.per_device_train_batch_size)
    where = f"step {trainer.state.global_step + 1}: out of memory{_describe_peak(args)}"
    if smaller is None:
        return TrainingError(where, "begin anew with activation_checkpointing or shorter rows")
    if finds and run.stage != "ppo":
        change = _describe_change(args, smaller)
        keep_effective_batch(args, smaller)
        _record_sizes(run, folder, args)
        return TrainingError(where, f"go on with --resume, which takes {change}")
    sizes = " ".join(f"--{key} {value}" for key, value in sizes_after(args, smaller).items())
    how = "go on with --resume --resume_anyway"
    if run.stage == "ppo":  # a checkpoint within a rollout counts its micro-batches
        how = "begin anew with --overwrite"
    return TrainingError(where, f"{how} {sizes}")


def _describe_change(args: Any, size: int) -> str:
    before, after = sizes_of(args), sizes_after(args, size)
    changed = ", ".join(f"{key} {before[key]} -> {after[key]}" for key in after)
    total = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return f"{changed} (auto_find_batch_size; the effective batch stays {total})"


def _memory(args: Any) -> tuple[int, int] | tuple[()]:
    """The peak of memory since it was reset and what the device has, in bytes; GPUs only."""
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


def _anywhere(short: bool, device: torch.device) -> bool:
    """Whether memory ran out in any process."""
    if not torch.distributed.is_initialized():
        return short
    seen = torch.tensor(int(short), device=device)
    torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
    return bool(seen.item())


def _tell(line: str) -> None:
    if is_main():
        click.echo(line)
