"""The record beside every checkpoint: what was run, on what, from what, and how it ended.

``run.json`` holds the stage, its settings with their sources, the digests of its data and the
fingerprints of its parents. Since a parent's fingerprint is part of the child's, the records of a
pipeline form a hash chain: change the reward data, and rm and ppo are stale while sft is not.
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignment import processes
from alignment.disk import digest_file, digest_pieces, sync, write_text
from alignment.errors import ConfigError
from alignment.registry import ROLES
from alignment.runs.files import (
    RECORD,
    WEIGHT_SUFFIXES,
    checkpoint_step,
    model_files,
    run_folder,
)
from alignment.secrets import redact, redact_words

#: Keys that say where and how loudly to work, not what comes out.
_NOT_DECIDING = {
    "output_dir", "overwrite", "resume", "resume_anyway", "resume_from_checkpoint",
    "run_group", "run_name", "report_to", "project", "logging_dir", "logging_steps",
    "logging_strategy",
    "logging_first_step", "log_level", "log_level_replica", "log_on_each_node", "disable_tqdm",
    "save_steps", "save_strategy", "save_total_limit", "push_to_hub", "hub_model_id", "hub_token",
    "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision", "trackio_space_id",
    "trackio_bucket_id", "trackio_static_space_id", "dataset_num_proc", "dataloader_num_workers",
    "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "max_loss_spike", "preflight", "log_completions", "num_completions_to_print",
    "skip_memory_metrics", "ddp_timeout",
    "train_data", "eval_data", *ROLES.values(),
}  # fmt: skip

_PACKAGES = ("alignment-pipeline", "torch", "transformers", "trl", "peft", "datasets", "accelerate")


@dataclass(frozen=True, slots=True)
class Source:
    """One file (or folder, or hub name) of data: its digest, its rows, and how many were dropped.

    ``rows`` is None until the file was read.
    """

    path: str
    sha256: str
    rows: int | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Parent:
    """A model that a run starts from: ours, with the fingerprint of its run, or anybody's."""

    path: str
    fingerprint: str
    stage: str | None


@dataclass(slots=True)
class Run:
    """The record of one run of one stage.

    ``status`` is running, finished, failed or interrupted. ``settings`` holds every key that was
    given, as ``{"value": ..., "source": ...}``; ``checks`` what the trainer could make of the rows.
    ``tracker_id`` is the name of the run in trackers; a resumed run keeps it.
    """

    stage: str
    name: str
    fingerprint: str
    status: str = "running"
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, list[Source]] = field(default_factory=dict)
    parents: dict[str, Parent] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    processes: int = 1
    command: list[str] = field(default_factory=list)
    started: float = 0.0
    ended: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    tracker_id: str = ""

    def __post_init__(self) -> None:
        if not self.tracker_id:
            self.tracker_id = f"{self.stage}-{self.fingerprint}-{int(self.started)}"

    def write(self, folder: Path) -> None:
        """Put the record into its folder, whole or not at all."""
        if not folder.is_dir():
            place = folder.resolve()  # a link to a folder that was set aside stays one
            place.mkdir(parents=True)
            sync(place.parent)
        write_text(folder / RECORD, json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n")


def new_run(
    stage: str,
    *,
    settings: Mapping[str, Any],
    sources: Mapping[str, str],
    inputs: dict[str, list[Source]],
    parents: dict[str, Parent],
) -> Run:
    """A record of a run that begins now."""
    return Run(
        stage=stage,
        name=Path(settings["output_dir"]).name,
        fingerprint=fingerprint(stage, settings=settings, inputs=inputs, parents=parents),
        settings={
            key: {"value": redact(key, settings[key]), "source": source}
            for key, source in sorted(sources.items())
        },
        inputs=inputs,
        parents=parents,
        versions=versions(),
        git=_git(),
        device=platform.machine(),
        processes=processes.count(),
        command=["align", stage, *redact_words(sys.argv[2:])],
        started=time.time(),
    )


def fingerprint(
    stage: str,
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, list[Source]],
    parents: Mapping[str, Parent],
) -> str:
    """A digest of all that decides a result: stage, settings, data, parents.

    Paths, names and logging do not count; the content of the data and the parents' own
    fingerprints do.
    """
    deciding = {
        "stage": stage,
        "settings": {key: value for key, value in settings.items() if decides(key)},
        "inputs": {role: [s.sha256 for s in sources] for role, sources in inputs.items()},
        "parents": {role: parent.fingerprint for role, parent in parents.items()},
    }
    text = json.dumps(deciding, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decides(key: str) -> bool:
    """Whether a key has a part in what comes out of a run."""
    return key not in _NOT_DECIDING


def load_run(folder: Path) -> Run | None:
    """The record in a folder, None where there is none.

    Raises:
        ConfigError: there is one that cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        row["inputs"] = {
            role: [Source(**source) for source in sources]
            for role, sources in row["inputs"].items()
        }
        row["parents"] = {role: Parent(**parent) for role, parent in row["parents"].items()}
        return Run(**row)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a run record ({error})", "delete the folder, or restore the file"
        ) from None


def find_run(model: str) -> Run | None:
    """The run that wrote a model folder, also where the path is one of its checkpoints."""
    return load_run(run_folder(Path(model)))


def identify(model: str, revision: str = "main") -> Parent:
    """Name a model that a run starts from, so that a change of it is seen.

    A run of ours is named by its fingerprint, another folder by its files, the rest is taken for a
    hub name and named by that and the revision.
    """
    folder = Path(model)
    run = find_run(model)
    if run is not None:
        mark = "" if checkpoint_step(folder) is None else folder.name
        return Parent(model, run.fingerprint + mark, run.stage)
    if folder.is_dir():
        return Parent(model, _digest_model(folder), None)
    return Parent(model, f"{model}@{revision}", None)


def _digest_model(folder: Path) -> str:
    """A digest of a model's files: of weights by pieces, of all others whole."""
    digest = hashlib.sha256()
    for path in model_files(folder):
        content = digest_pieces(path) if path.suffix in WEIGHT_SUFFIXES else digest_file(path)
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def is_unfinished_record(path: Path) -> bool:
    """Whether this is what `write_text` leaves of a record where it is killed."""
    return path.name.startswith(f".{RECORD}.") and path.name.endswith(".tmp")


def _git() -> dict[str, Any]:
    """Commit of the working directory and whether it has changes; empty outside a repository."""
    commands = {"commit": ["rev-parse", "HEAD"], "changes": ["status", "--porcelain", "-uno"]}
    found: dict[str, Any] = {}
    for name, arguments in commands.items():
        try:
            done = subprocess.run(
                ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if done.returncode != 0:
            return {}
        found[name] = done.stdout.strip()
    return {"commit": found["commit"], "dirty": bool(found["changes"])}
