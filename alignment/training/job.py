"""One run of one stage around its trainer: folder, record, resume, the end."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignment.data.rows import StageRows, check_rows, prepare_stage
from alignment.disk import disk_errors_in_words, write_text
from alignment.errors import ConfigError, Interrupted
from alignment.memory.batch_size import use_found
from alignment.models.parents import identify_parents, import_functions
from alignment.processes import count, is_main
from alignment.registry import STAGES
from alignment.runs import (
    LAYOUT,
    Run,
    changed_parents,
    changes_since,
    check_output,
    digest_outputs,
    new_run,
    previous_runs,
    set_aside,
)
from alignment.secrets import redact_text
from alignment.settings import resolve as config
from alignment.trackers.files import FileTracker
from alignment.trackers.multiplexer import Trackers
from alignment.training.checkpoints import newest_whole, require_resumable, sync_files
from alignment.training.shared_folder import require_shared

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

    from alignment.settings.resolve import Settings
    from alignment.training.signals import StopSignals

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """What a stage function gets: settings, rows, record and folder of a run.

    ``resumes`` is true if the folder holds a run to continue, ``finished`` if that run is complete.
    A signal that comes while the model is saved is in ``signals``; the run is finished first.
    """

    settings: Settings
    run: Run
    folder: Path
    rows: StageRows
    resumes: bool
    signals: StopSignals
    finished: bool = False
    trackers: Trackers = field(init=False)

    def __post_init__(self) -> None:
        self.trackers = Trackers(FileTracker(self.folder) if is_main() else None)

    def dataclasses(self) -> tuple[Any, ...]:
        """DataArgs, RunArgs, TRL's ModelConfig and the trainer's settings."""
        _use_cpu_if_there_is_no_gpu()
        # The search of transformers would lower the effective batch; `memory.preflight` keeps it.
        values = {**self.settings.values, "auto_find_batch_size": False}
        built = config.build(replace(self.settings, values=values))
        arguments = built[-1]
        if arguments.world_size != count():  # each process would train on all rows, by itself
            raise ConfigError(
                f"{count()} processes were started, {arguments.world_size} would train together",
                "start them with --nproc, torchrun or accelerate launch --multi_gpu",
            )
        require_shared(self.folder)
        if values["fsdp"] and count() == 1:
            raise ConfigError(
                "fsdp: needs several processes, and there is one", "start with --nproc N"
            )
        if arguments.device.type == "cpu":
            _refuse_on_cpu(values)
        # The trainer gets none of its own: those in `trackers` cannot stop it.
        names, arguments.report_to = arguments.report_to, []
        self.trackers.open(names, self.run, self.folder)
        use_found(arguments, self.run.checks.get("batch"))
        if arguments.hub_token:  # training_args.bin would hold it in every checkpoint
            os.environ["HF_TOKEN"], arguments.hub_token = arguments.hub_token, None
        return built

    def callbacks(self) -> list[TrainerCallback]:
        """The callbacks that every trainer gets."""
        from alignment.trackers.callback import TrackerCallback
        from alignment.training.early_stopping import EarlyStopping, WholeLoss
        from alignment.training.guard import Guard
        from alignment.training.spikes import SpikeGuard

        found: list[TrainerCallback] = [
            WholeLoss(),
            TrackerCallback(self.trackers, self.run),
            Guard(self.run, self.signals),
        ]
        patience = self.settings.values["early_stopping_patience"]
        if patience is not None:
            found.append(EarlyStopping(patience))
        factor = self.settings.values["max_loss_spike"]
        return [*found, SpikeGuard(factor)] if factor is not None else found

    def train(self, trainer: Trainer) -> None:
        """Train from the newest whole checkpoint or from the start, save, measure.

        Raises:
            Interrupted: a signal came; a checkpoint was written.
            TrainingError: a loss, gradient or weight is not finite, or memory ran out in a step.
            ConfigError: the longest batch does not fit into memory.
        """
        from alignment.memory import preflight
        from alignment.models.end_tokens import set_end_tokens
        from alignment.models.policy import train_in_float32
        from alignment.training.guard import Complete, Guard

        tokenizer: Any = trainer.processing_class
        self.rows.changes.make(tokenizer)  # TRL takes the end token of chat_template_path
        set_end_tokens(trainer.accelerator.unwrap_model(trainer.model), tokenizer)
        if not trainer.is_deepspeed_enabled:  # which needs one dtype, and keeps float32 copies
            train_in_float32(trainer.model, str(self.settings.values["model_name_or_path"]))
        guard = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Guard))
        checkpoint = self.checkpoint()
        with disk_errors_in_words(self.folder), guard.watching(trainer):
            try:
                result = preflight.train(
                    trainer,
                    self.run,
                    folder=self.folder,
                    checkpoint=checkpoint,
                    tries=self.settings.values["preflight"],
                    finds=self.settings.values["auto_find_batch_size"],
                )
                self.run.metrics |= last_logged(trainer.state.log_history) | result.metrics
            except Complete:
                logger.warning("%s: no step is left", self.folder)
                if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
                    trainer._load_best_model()
                mean = guard.loss / trainer.state.global_step
                self.run.metrics |= last_logged(trainer.state.log_history) | {"train_loss": mean}
            guard.check()
            if trainer.eval_dataset is not None:
                self.run.metrics |= trainer.evaluate()
        with disk_errors_in_words(self.folder):
            trainer.save_model(str(self.folder))
            if is_main():
                # else the record could say finished, and a power cut leave empty weights
                sync_files(self.folder)

    def write(self, name: str, text: str) -> None:
        """Write a file next to the model; only the main process does."""
        if is_main():
            write_text(self.folder / name, text)

    def checkpoint(self) -> str | None:
        """The checkpoint to resume from; torn ones are set aside and printed.

        The main process decides for all: before it has set a torn one aside, the others would still
        take that for the newest.

        Raises:
            ConfigError: no run can go on from the checkpoint.
        """
        from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]

        found: Path | None = None
        if is_main() and self.resumes:
            found, lines = newest_whole(self.folder)
            for line in lines:
                click.echo(line, err=True)
            click.echo(f"resuming from {found or 'the start: no whole checkpoint'}", err=True)
        # whether there is a run to resume, too: another process may have looked at another moment
        self.resumes, found = broadcast_object_list([self.resumes, found])
        if found is None:
            return None
        require_resumable(found)
        return str(found)


def open_job(settings: Settings, signals: StopSignals) -> Job:
    """Check all that can be checked without torch; the caller holds the lock of the folder.

    Raises:
        ConfigError: a folder or model that cannot be used.
        DataError: a file or row that cannot be used.
    """
    values = settings.values
    folder = Path(values["output_dir"])
    previous = None
    if is_main() or values["resume"]:  # else a record in it may be of this run, by the main process
        previous = check_output(folder, resume=values["resume"], overwrite=values["overwrite"])
    parents = identify_parents(settings.stage, values)
    for line in changed_parents(parents) if is_main() else ():
        click.echo(line, err=True)
    import_functions(values.get("reward_model") or [])
    rows = prepare_stage(STAGES[settings.stage], values)
    inputs = rows.inputs()
    run = new_run(
        settings.stage, settings=values, sources=settings.sources, inputs=inputs, parents=parents
    )
    if previous is None or not values["resume"]:
        _count(rows, run, values)
        return Job(settings, run, folder, rows, resumes=False, signals=signals)
    _check_layout(folder, previous)
    if not values["resume_anyway"]:
        _refuse_changes(folder, previous, settings, run)
    if previous.status != "finished":
        _count(rows, run, values)
    run.started, run.tracker_id = previous.started, previous.tracker_id
    if "batch" in previous.checks:  # what fitted before fits now, and resumes to the same bits
        run.checks["batch"] = previous.checks["batch"]
    finished = previous.status == "finished"
    return Job(settings, run, folder, rows, resumes=True, finished=finished, signals=signals)


def _count(rows: StageRows, run: Run, values: Mapping[str, Any]) -> None:
    """Print what the trainer will make of the rows and keep the counts in the record."""
    if is_main():
        for role, counts in check_rows(rows, values).items():
            run.checks[{"train": "train", "eval": "held_out"}[role]] = counts.as_json()


def last_logged(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The last value of every metric that training logged."""
    last: dict[str, Any] = {}
    for line in history:
        last |= line
    return {key: value for key, value in last.items() if key not in ("step", "epoch")}


def _check_layout(folder: Path, previous: Run) -> None:
    """Reject a run of an earlier version, whose checkpoints would not resume to the same bits.

    Raises:
        ConfigError: the run in the folder has another layout.
    """
    if previous.layout != LAYOUT and previous.status != "finished":
        raise ConfigError(
            f"output_dir: {folder}: its checkpoints are of another version of align (layout "
            f"{previous.layout}, this one reads {LAYOUT})",
            "start again with --overwrite",
        )


def _refuse_changes(folder: Path, previous: Run, settings: Settings, run: Run) -> None:
    """A run that resumes must be the run that was started.

    Raises:
        ConfigError: settings, data, parents or the number of processes changed.
    """
    differing = list(
        changes_since(previous, settings=settings, inputs=run.inputs, parents=run.parents)
    )
    if previous.processes != run.processes:
        differing.append(f"processes {previous.processes} -> {run.processes}")
    found = "; ".join(differing)
    if found:
        raise ConfigError(
            f"output_dir: {folder}: cannot resume another run: {found}",
            "undo these changes, continue with --resume_anyway, or start again with --overwrite",
        )


def _refuse_on_cpu(values: Mapping[str, Any]) -> None:
    """Refuse what only a GPU can do.

    Raises:
        ConfigError: A key asks for it.
    """
    if values.get("activation_offloading"):
        raise ConfigError("activation_offloading: needs a GPU, and none is used", "leave it out")
    if values["attn_implementation"] == "flex_attention":
        raise ConfigError(
            "attn_implementation: flex_attention trains on a GPU only, and none is used",
            "leave it out",
        )
    if values["optim"].startswith("paged_ademamix"):
        raise ConfigError(
            f"optim: {values['optim']} needs a GPU, and none is used", "choose ademamix"
        )


def _use_cpu_if_there_is_no_gpu() -> None:
    """Let several processes train together on a machine without a GPU, however they were started.

    Unless it is said, accelerate takes each of them for a run of its own.
    """
    import torch

    if count() > 1 and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"


@contextmanager
def recorded(job: Job) -> Iterator[Job]:
    """Write the record at the start, and again however the run ends."""
    if is_main():
        if not job.resumes:
            _make_room(job.folder)
        job.run.write(job.folder)
    try:
        yield job
        if is_main():
            job.run.outputs = digest_outputs(job.folder)
        job.run.status = "finished"
    except (KeyboardInterrupt, Interrupted):
        job.run.status = "interrupted"
        raise
    except BaseException as error:
        job.run.status, job.run.error = "failed", redact_text(f"{type(error).__name__}: {error}")
        raise
    finally:
        job.signals.defer()  # the record must not be left half written
        job.run.ended = time.time()
        job.run.metrics = {key: _finite(value) for key, value in job.run.metrics.items()}
        if is_main():
            _write_last(job)
            _report_previous_run(job)


def _make_room(folder: Path) -> None:
    previous = set_aside(folder)
    if previous is not None:
        click.echo(f"{folder}: the run in it is kept as {previous.name} until this one is finished")


def _report_previous_run(job: Job) -> None:
    """If this run did not finish, print where the run is that it was to replace."""
    found = previous_runs(job.folder)
    if job.run.status != "finished" and found:
        click.echo(f"the previous run is unchanged, in {found[-1]}", err=True)


def _write_last(job: Job) -> None:
    """Write the record at the end; if the disk refuses, the error that came first must be seen."""
    try:
        job.run.write(job.folder)
    except OSError as error:
        logger.warning("%s: the record could not be written: %s", job.folder, error.strerror)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
