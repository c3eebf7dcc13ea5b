"""Run accelerate's launcher in this process: hand on signals, give the exit code back."""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from subprocess import CalledProcessError
from types import FrameType

import click

from alignment.errors import Interrupted
from alignment.processes import handling, leave_terminals, other_kind, terminals


def run_launcher(words: Sequence[str]) -> int:
    """Start processes as `accelerate launch` does; return the exit code of the first that failed.

    After a signal it is 128 + signal, once every process has saved and ended.
    """
    logging.disable(logging.ERROR)  # torch logs every signal; what failed is printed below
    # torch would forward the first signal for 30 seconds, and drop the processes at the second
    os.environ["PET_SIGNALS_TO_HANDLE"] = "none"
    try:
        with _signals_handed_on():
            return _launch(words)
    except Interrupted as interruption:
        return 128 + interruption.number


def _launch(words: Sequence[str]) -> int:
    from accelerate.commands.launch import (  # type: ignore[import-untyped]
        launch_command,
        launch_command_parser,
    )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(launch_command_parser().parse_args(list(words)))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        return _code(failure.exitcode, f"[rank{rank}]")
    except CalledProcessError as failed:
        return _code(failed.returncode, "the stage")
    return 0


def _code(code: int, who: str) -> int:
    """The exit code of a process; if a signal killed it, nothing else has said so."""
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    click.echo(f"error: {who} was killed by {name}{hint}; continue with --resume", err=True)
    return 128 - code


@contextmanager
def _signals_handed_on() -> Iterator[None]:
    """Hand each signal on to all processes; a second SIGINT or SIGTERM kills them.

    Raises:
        Interrupted: A signal came before there was a process, or all of them ended after one.
    """
    import psutil  # type: ignore[import-untyped]

    came: list[int] = []
    at_start = terminals()

    def hand_on(number: int, frame: FrameType | None) -> None:
        sent = signal.SIGKILL if number in came else other_kind(number)
        came.append(number)
        if signal.Signals(number).name == "SIGHUP":
            leave_terminals(at_start)
            sent = signal.SIGTERM  # it often comes twice, from kernel and shell
        children = psutil.Process().children()
        if not children:
            raise Interrupted(came[0], "before a process was started")
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(sent)

    with handling(hand_on):
        yield
    if came:
        raise Interrupted(came[0], "in its processes")
