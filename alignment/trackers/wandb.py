"""W&B: one run for all processes that continue each other, offline if its server cannot be used."""

from __future__ import annotations

import netrc
import os
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import wandb

from alignment.trackers.integrations import IntegrationTracker, as_cell
from alignment.trackers.multiplexer import first_line

if TYPE_CHECKING:
    from alignment.runs import Run

_HOST = "https://api.wandb.ai"
#: Seconds that W&B may take to answer before a run begins without it.
PROBE_SECONDS = 5.0
#: Seconds for the last uploads of a finished run; by default W&B waits without limit.
FINISH_SECONDS = 30
#: The size of W&B's file before its first record.
_HEADER_BYTES = 7


class WandbTracker(IntegrationTracker):
    """Drives transformers' WandbCallback and adds tables, the lineage and a bounded end."""

    def __init__(self, name: str, run: Run, folder: Path) -> None:
        group = run.settings.get("run_group", {}).get("value")
        line = prepare_wandb(run, group=group, folder=folder)
        if line is not None:
            click.echo(line)
        super().__init__(name, run, folder)
        self.name = "W&B"

    def resume(self, *, step: int) -> None:
        """Start or continue the run of W&B; if that fails online, write it offline instead."""
        try:
            super().resume(step=step)
        except Exception as error:
            if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
                raise
            click.echo(f"W&B: {first_line(error)}; this run is written offline", err=True)
            os.environ["WANDB_MODE"] = "offline"
            # W&B reads its environment once and keeps the id of the run until it is torn down,
            # and the callback that failed takes its setup for done.
            with suppress(Exception):  # if it is still broken, the next start reports that
                wandb.teardown()
            self.callback = self.make_callback()
            super().resume(step=step)

    def set_config(self, config: dict[str, Any]) -> None:
        """Add the lineage to the arguments that the callback has recorded."""
        wandb.config.update(config, allow_val_change=True)

    def log_table(self, name: str, rows: list[dict[str, Any]], *, step: int) -> None:
        """Log a table of the rows; it joins the numbers that are logged next."""
        columns = ["step", *rows[0]]
        data = [[step, *map(as_cell, row.values())] for row in rows]
        # A commit here would give the table a row of its own, without the numbers of its step.
        wandb.log({name: wandb.Table(columns=columns, data=data)}, commit=False)

    def finish(self, *, exit_code: int) -> None:
        """Let W&B send the rest, for a bounded time.

        Raises:
            RuntimeError: not everything was sent; names the command that sends it.
        """
        try:
            super().finish(exit_code=exit_code)
        finally:
            finish_wandb(exit_code=exit_code)


def prepare_wandb(run: Run, *, group: str | None, folder: Path) -> str | None:
    """Set project, group, job type and id of a run in W&B's environment, before W&B reads it.

    What the user has set is kept.

    Returns:
        The line to print if the run stays offline, otherwise None.
    """
    os.environ.setdefault("WANDB_PROJECT", "align")
    os.environ.setdefault("WANDB_DIR", str(folder))
    os.environ.setdefault("WANDB_JOB_TYPE", run.stage)
    if group:
        os.environ.setdefault("WANDB_RUN_GROUP", group)
    os.environ.setdefault("WANDB_RUN_ID", run.tracker_id)
    _set_empty_aside(folder / "wandb", run.tracker_id)
    os.environ.setdefault("WANDB_RESUME", "allow")  # a resumed run continues the same W&B run
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")  # the default is 90 s
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))
    os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
    mode = os.environ.get("WANDB_MODE")
    if mode not in (None, "online"):
        return None
    # the user who asks for `online` has the key in a place that wandb will find
    fault = _find_fault() if mode == "online" or _has_key() else "no key found"
    if fault is None:
        return None
    os.environ["WANDB_MODE"] = "offline"
    command = f"wandb sync {folder}/wandb/offline-run-*"
    return f"W&B: {fault}, so this run stays offline; to send it: {command}"


def finish_wandb(*, exit_code: int) -> None:
    """Finish the run of W&B, if there is one.

    Raises:
        RuntimeError: not everything was sent; the folder that it names has all that was logged.
    """
    if wandb.run is None:
        return
    folder = Path(wandb.run.dir).parent
    try:
        wandb.finish(exit_code=exit_code)
    except Exception as error:
        seconds = os.environ["WANDB_FINISH_TIMEOUT"]
        late = isinstance(error, TimeoutError)
        fault = f"not everything was sent within {seconds} s" if late else first_line(error)
        command = f"wandb sync --include-online {folder}"
        raise RuntimeError(f"{fault}; to send it: {command}") from error


def _set_empty_aside(folder: Path, run_id: str) -> None:
    """Rename the folder of a run that was killed before its first record.

    `wandb sync` of several folders stops at such a one.
    """
    for path in folder.glob(f"offline-run-*/run-{run_id}.wandb"):
        if path.stat().st_size <= _HEADER_BYTES:
            aside = path.parent.rename(folder / f"torn-{path.parent.name}")
            click.echo(f"W&B: {path.parent} has no record; renamed to {aside.name}", err=True)


def _find_fault() -> str | None:
    """Why W&B's server cannot be used now, None if it answers."""
    host = os.environ.get("WANDB_BASE_URL", _HOST)
    found = [f"{host} did not answer in {PROBE_SECONDS:g} s"]
    thread = threading.Thread(target=_ask, args=(host, found), daemon=True)
    thread.start()  # a name lookup has no time-out of its own
    thread.join(PROBE_SECONDS)
    return found[0] or None


def _ask(host: str, found: list[str]) -> None:
    """Replace the first item by the fault, by "" if the server answers."""
    try:
        with urllib.request.urlopen(f"{host}/healthz", timeout=PROBE_SECONDS):
            found[0] = ""
    except urllib.error.HTTPError as error:  # 401 or 404 is an answer too
        found[0] = f"{host} answers {error.code}" if error.code >= 500 else ""
    except TimeoutError:
        return
    except (OSError, ValueError, HTTPException) as error:
        found[0] = f"{host} cannot be reached ({error})"


def _has_key() -> bool:
    """Whether wandb finds a key in the places that it searches: environment, then netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _HOST)).netloc
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):  # wandb prints a warning and continues without a key
        return False
