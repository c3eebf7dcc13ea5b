"""Run a stage: settings, checks, folder, record and training."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignment.disk import check_writable, disk_errors_in_words
from alignment.errors import (
    AlignError,
    ConfigError,
    Interrupted,
    TrainingError,
    user_errors,
)
from alignment.models.imports import import_heavy
from alignment.models.renamed import quiet_libraries
from alignment.processes import count, end_with_launcher, is_main, rank
from alignment.registry import STAGES
from alignment.runs import delete_previous_runs, locked
from alignment.secrets import guard_output, redact_text, redact_words, tell_exception
from alignment.training.accelerate_words import asked_of_accelerate
from alignment.training.signals import StopSignals

if TYPE_CHECKING:
    from alignment.settings.resolve import Settings
    from alignment.training.job import Job

#: Seconds that another rank waits with its error. Nearly always the main process prints the same,
#: and the launcher then ends this one; only an error of its own is left to be printed.
_SAME_ERROR = 5.0


def main(stage: str, argv: list[str]) -> None:
    """Run a stage from its command line, as `align`, `python -m alignment` and recipes/*.py do.

    Exits with 2 after a user error, which is printed in one or two lines, with 1 if training cannot
    continue, and with 128 + signal after a signal.
    """
    guard_output()
    signals = StopSignals()
    try:
        with signals.handled():
            run_stage(stage, argv, signals)
    except AlignError as error:
        if not is_main():
            time.sleep(_SAME_ERROR)
        prefix = "" if is_main() else f"[rank{rank()}]: "
        click.echo(redact_text(f"{prefix}error: {error}"), err=True)
        sys.exit(1 if isinstance(error, TrainingError) else 2)
    except Interrupted as interruption:
        if is_main():
            click.echo(f"{stage}: {interruption}", err=True)
        sys.exit(128 + interruption.number)
    except Exception:  # a bug: printed here, because W&B's hook would print secrets
        # the ranks of one run write to one terminal
        tell_exception(*sys.exc_info(), prefix=f"[rank{rank()}]: " if count() > 1 else "")
        sys.exit(1)


@user_errors()
def run_stage(stage: str, argv: list[str], signals: StopSignals | None = None) -> None:
    """Resolve the settings, check what they name, then train.

    Raises:
        AlignError: An error that the user can fix.
        Interrupted: A signal came, of those that the caller handles.
    """
    from alignment.settings.help import print_help
    from alignment.settings.resolve import describe, resolve
    from alignment.settings.strategies import launched_strategy, refuse_strategy
    from alignment.training.job import open_job

    if {"--help", "-h", "--help-all"} & set(argv):
        print_help(STAGES[stage], everything="--help-all" in argv)
        return
    dry = "--dry-run" in argv
    settings = resolve(stage, [word for word in argv if word != "--dry-run"])
    if dry:
        click.echo(describe(settings))
        return
    _start_all_processes()
    refuse_strategy(STAGES[stage], settings.values, launched_strategy())
    folder = Path(settings.values["output_dir"])
    if is_main():
        check_writable(folder)
    with locked(folder) if is_main() else nullcontext(), _library_errors_in_words(settings):
        _run(stage, open_job(settings, signals or StopSignals()))


def _start_all_processes() -> None:
    """Become all the processes that `accelerate launch` was to start, if this is one of several.

    On a CPU it starts one without --multi_gpu, and with --cpu, whatever --num_processes says: one
    process would train with a part of the batch. Only the address at which they were to meet shows
    it, and accelerate's own command line has their number.

    Raises:
        ConfigError: It was started with --cpu, for a number of processes that cannot be found.
    """
    by_accelerate = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys()
    if not by_accelerate or "RANK" in os.environ:
        return
    import torch

    asks_for_cpu = os.environ.get("ACCELERATE_USE_CPU") == "True"
    number = asked_of_accelerate()
    if number is not None and (asks_for_cpu or not torch.accelerator.is_available()):
        if number > 1:
            launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
            end_with_launcher()  # holds for the program that this process becomes, too
            os.execv(sys.executable, [sys.executable, "-m", *launcher, *sys.orig_argv[1:]])
        return
    remedy = "for several on a CPU use align --nproc N, or --multi_gpu and no --cpu"
    if asks_for_cpu:
        raise ConfigError("accelerate launch --cpu started one process of several", remedy)
    click.echo(f"warning: accelerate launch started one process; {remedy}", err=True)


@contextmanager
def _library_errors_in_words(settings: Settings) -> Iterator[None]:
    """Name the key in an error that a library raises for a value of the user."""
    try:
        yield
    except Exception as error:
        in_words = settings.blame(error)
        if in_words is None:
            raise
        raise in_words from error


def _run(stage: str, job: Job) -> None:
    from alignment.training.job import recorded

    if job.finished:
        click.echo(f"{stage}: finished already, in {job.folder}; nothing was changed")
        delete_previous_runs(job.folder)
        return
    _quieten()
    with _tracked(job), disk_errors_in_words(job.folder), recorded(job), leaving_group():
        import_heavy("alignment.training.trainers")
        importlib.import_module(f"alignment.stages.{stage}").run(job)
    if is_main():
        delete_previous_runs(job.folder)
        click.echo(f"{stage}: done, in {job.folder}")
    job.signals.check("while the model was saved; the run is finished")


@contextmanager
def _tracked(job: Job) -> Iterator[None]:
    """Finish the trackers after the record is written, also if the run fails."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        job.trackers.finish(exit_code=exit_code)


@contextmanager
def leaving_group() -> Iterator[None]:
    """Leave the process group at the end, if the other processes end as well.

    Threads of gloo may still hold tensors, and one that frees them while Python shuts down aborts
    the process (pytorch/pytorch#179291). After an error, others may still wait in the group.
    """
    try:
        yield
    except Interrupted:
        _leave_group()
        raise
    _leave_group()


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _quieten() -> None:
    """Hide secrets from trackers, silence fork warnings, and set the format of log lines."""
    sys.argv[:] = redact_words(sys.argv)  # W&B sends the command line along
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet_libraries()
    warnings.filterwarnings("ignore", "'pin_memory' argument is set", UserWarning)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
