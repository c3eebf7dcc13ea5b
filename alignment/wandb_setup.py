"""W&B's environment, set before wandb is imported: it reads it once."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from alignment.runs import Run

_HOST = "https://api.wandb.ai"


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
    os.environ.setdefault("WANDB_RESUME", "allow")  # a resumed run goes on in the same W&B run
    if "WANDB_MODE" in os.environ or _has_key():
        return None
    os.environ["WANDB_MODE"] = "offline"
    return f"W&B: no key found, so this run stays offline; to send it: wandb sync {folder}/wandb/*"


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
