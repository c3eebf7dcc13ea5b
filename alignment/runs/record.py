"""The record of a run: what was run, on which data, from which models, and how it ended.

``run.json`` holds the stage, its settings with their sources, the digests of its data and the
fingerprints of its parents. A parent's fingerprint is part of its children's, so the records of a
pipeline form a hash chain: if the reward data change, rm and ppo are stale and sft is not.
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignment import processes
from alignment.disk import sync, write_text
from alignment.errors import ConfigError
from alignment.registry import ROLES, STAGES, Stage
from alignment.runs.files import (
    RECORD,
    checkpoint_step,
    run_folder,
)
from alignment.runs.outputs import changed_outputs, digest_model
from alignment.secrets import redact, redact_words

#: Keys that do not affect the result, only where it goes and what is logged.
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


#: Raise it when checkpoints of earlier versions can no longer be resumed to the same bits.
LAYOUT = 3


@dataclass(frozen=True, slots=True)
class Source:
    """One source of data (a file, a folder or a hub name) by its content.

    Attributes:
        path: As it was given.
        sha256: Its digest.
        rows: How many rows of it are used; None until it is read.
        dropped: How many rows were dropped.
        weight: Its weight in the mix of several sources; None: all of its rows are used.
        unused: How many of its rows have text in a column that nothing reads, by column.
    """

    path: str
    sha256: str
    rows: int | None = None
    dropped: int = 0
    weight: float | None = None
    unused: Mapping[str, int] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What of it affects a result: its digest, and its weight if it has one."""
        return self.sha256 if self.weight is None else f"{self.sha256}:{self.weight:g}"


@dataclass(frozen=True, slots=True)
class Parent:
    """What a run starts from: a model, or a reward of another kind.

    Attributes:
        path: As it was given.
        fingerprint: That of its run; else a digest of its content, or a name and revision.
        stage: The stage of its run; None if no run of ours made it.
    """

    path: str
    fingerprint: str
    stage: str | None


@dataclass(slots=True)
class Run:
    """The record of one run of one stage.

    Attributes:
        status: running, finished, failed or interrupted.
        settings: Every key that was given, as ``{"value": ..., "source": ...}``.
        checks: What was counted in the rows, and the batch that fits into memory.
        outputs: The digests of the files that it ended in; empty until it is finished.
        tracker_id: The name of the run in trackers; a resumed run keeps it.
        layout: The layout of its checkpoints and rows; 1 in records that do not say it.
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
    outputs: dict[str, str] = field(default_factory=dict)
    layout: int = LAYOUT

    def __post_init__(self) -> None:
        if not self.tracker_id:
            self.tracker_id = f"{self.stage}-{self.fingerprint}-{int(self.started)}"

    @property
    def facts(self) -> Stage:
        """What is true of its stage."""
        return STAGES[self.stage]

    def write(self, folder: Path) -> None:
        """Write the record into a folder in one step, so that it is never half written."""
        if not folder.is_dir():
            place = folder.resolve()  # a link whose target was set aside stays a link
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
    """The record of a run that starts now."""
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
        # a record is shared with a model, and a flag may hold a token
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
    """A digest of everything that affects the result: stage, settings, data and parents.

    Paths, names and logging do not count. The content of the data counts, in order, and so do the
    parents' own fingerprints.
    """
    deciding = {
        "stage": stage,
        "settings": {key: value for key, value in settings.items() if decides(key)},
        "inputs": {role: [s.content for s in sources] for role, sources in inputs.items()},
        "parents": {role: parent.fingerprint for role, parent in parents.items()},
    }
    text = json.dumps(deciding, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decides(key: str) -> bool:
    """Whether a key affects the result of a run."""
    return key not in _NOT_DECIDING


def load_run(folder: Path) -> Run | None:
    """The record in a folder, None if there is none.

    Raises:
        ConfigError: There is one that cannot be read.
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
        for key in ("settings", "metrics", "checks"):
            if not isinstance(row.get(key, {}), dict):
                raise TypeError(f"{key} is not a mapping")
        return Run(**{"layout": 1, **row})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not a run record ({error})", "delete the folder, or restore the file"
        ) from None


def find_run(model: str) -> Run | None:
    """The run that wrote a model's folder, which may be one of its checkpoints."""
    return load_run(run_folder(Path(model)))


def identify(model: str, revision: str = "main") -> Parent:
    """Identify a model that a run starts from, so that a change of it is noticed.

    A run of ours is identified by its fingerprint and by the files that were changed after it had
    finished, another folder by its files, and a model on the hub by its name and revision.
    """
    folder = Path(model)
    run = find_run(model)
    if run is not None:
        if checkpoint_step(folder) is not None:  # those of one run are different models
            return Parent(
                model, f"{run.fingerprint}{folder.name}-{digest_model(folder)}", run.stage
            )
        mark = f"-{digest_model(folder)}" if changed_outputs(folder, run.outputs) else ""
        return Parent(model, run.fingerprint + mark, run.stage)
    if folder.is_dir():
        return Parent(model, digest_model(folder), None)
    return Parent(model, f"{model}@{revision}", None)


def changed_parents(parents: Mapping[str, Parent]) -> Iterator[str]:
    """A line for each parent whose files were changed after its run had finished."""
    for role, parent in parents.items():
        run = find_run(parent.path) if parent.stage else None
        if run is None or parent.fingerprint == run.fingerprint:
            continue
        names = changed_outputs(Path(parent.path), run.outputs)
        if names and checkpoint_step(Path(parent.path)) is None:
            yield (
                f"{role.replace('_', ' ')} {parent.path}: {', '.join(names)} changed since that "
                "run finished; this run starts from what is there now"
            )


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def is_unfinished_record(path: Path) -> bool:
    """Whether a file is what `write_text` leaves of a record if the process is killed."""
    return path.name.startswith(f".{RECORD}.") and path.name.endswith(".tmp")


def _git() -> dict[str, Any]:
    """The commit of the working directory and whether files differ; empty outside a repository."""
    # -uno: a search for untracked files would walk through all data and runs
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
