"""W&B's environment, set before wandb is imported: it reads it once."""

import logging
import netrc
import os
import sys
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from alignment.runs.record import Run

logger = logging.getLogger(__name__)

_HOST = "https://api.wandb.ai"
#: Seconds that W&B may take to answer before a run begins without it.
PROBE_SECONDS = 5.0
#: Seconds for the last uploads of a run that is over; W&B itself waits without end.
FINISH_SECONDS = 30
#: What W&B's file holds before its first record.
_HEADER_BYTES = 7


def prepare_wandb(run: Run, *, group: str | None, folder: Path) -> str | None:
    """Give a run its project, group, job type and id; a line to print where it goes offline.

    What the user has set already stays as it is.
    """
    os.environ.setdefault("WANDB_PROJECT", "align")
    os.environ.setdefault("WANDB_DIR", str(folder))
    os.environ.setdefault("WANDB_JOB_TYPE", run.stage)
    if group:
        os.environ.setdefault("WANDB_RUN_GROUP", group)
    if run.tracker_id is None:
        run.tracker_id = f"{run.stage}-{run.fingerprint}-{int(run.started)}"
    os.environ.setdefault("WANDB_RUN_ID", run.tracker_id)
    _set_empty_aside(folder / "wandb", run.tracker_id)
    os.environ.setdefault("WANDB_RESUME", "allow")  # a resumed run goes on in the same W&B run
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")  # it waits 90 s by default
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))
    os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
    if "WANDB_MODE" in os.environ:
        return None
    fault = _find_fault() if _has_key() else "no key found"
    if fault is None:
        return None
    os.environ["WANDB_MODE"] = "offline"
    command = f"wandb sync {folder}/wandb/offline-run-*"
    return f"W&B: {fault}, so this run stays offline; to send it: {command}"


def finish_wandb(*, exit_code: int) -> str | None:
    """Let W&B send what is left, for a bounded time; a line to print where it could not.

    Whatever was logged lies in the folder named, also what was never sent.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return None
    folder = Path(wandb.run.dir).parent
    try:
        wandb.finish(exit_code=exit_code)
    except Exception as error:  # whatever a tracker raises, the run is over and saved
        seconds = os.environ["WANDB_FINISH_TIMEOUT"]
        late = isinstance(error, TimeoutError)
        fault = f"not all was sent within {seconds} s" if late else str(error) or repr(error)
        return f"W&B: {fault}; to send it: wandb sync --include-online {folder}"
    return None


def _set_empty_aside(folder: Path, run_id: str) -> None:
    """Rename what a run left that was killed before W&B wrote a record: it ends `wandb sync`."""
    for path in folder.glob(f"offline-run-*/run-{run_id}.wandb"):
        if path.stat().st_size <= _HEADER_BYTES:
            aside = path.parent.rename(folder / f"torn-{path.parent.name}")
            logger.warning("W&B: %s holds no record; set aside as %s", path.parent, aside.name)


def _find_fault() -> str | None:
    """Why W&B's server cannot be used now, None where it answers."""
    host = os.environ.get("WANDB_BASE_URL", _HOST)
    found = [f"{host} did not answer in {PROBE_SECONDS:g} s"]
    thread = threading.Thread(target=_ask, args=(host, found), daemon=True)
    thread.start()  # looking up a name knows no time-out of its own
    thread.join(PROBE_SECONDS)
    return found[0] or None


def _ask(host: str, found: list[str]) -> None:
    """Put the fault in place of the first item, nothing where the server answers."""
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
    """Whether wandb will find a key where it looks: the environment, then the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _HOST)).netloc
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):  # wandb warns of it and goes on without a key
        return False
