"""What a stage is given, checked before anything heavy is imported: data, models, output folder."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from alignment.errors import ConfigError, DataError
from alignment.models.folders import adapter_base, check_model
from alignment.registry import ROLES, STAGES
from alignment.runs.folder import holds_results
from alignment.runs.record import (
    METRICS,
    Parent,
    Run,
    Source,
    digest_file,
    identify,
    is_unfinished_record,
    load_run,
)
from alignment.secrets import redact
from alignment.settings.resolve import Settings
from data_tools.reading.hub import hub_revision, hub_splits, is_hub_name

#: How many bad rows are named one by one; the rest is counted.
_NAMED_ROWS = 5


def digest_inputs(settings: Mapping[str, Any]) -> dict[str, list[Source]]:
    """The data of a stage by role (train, eval), named by content.

    Raises:
        ConfigError: no training data is named, or a file is not there.
    """
    if not settings["train_data"]:
        raise ConfigError("train_data: no data to train on", "name a file: --train_data FILE")
    found = {"train": [_digest(path) for path in settings["train_data"]]}
    if settings["eval_data"]:
        found["eval"] = [_digest(path) for path in settings["eval_data"]]
    return found


def check_rows(stage: str, settings: Mapping[str, Any]) -> dict[str, list[Source]]:
    """Read every row once as the stage will, and count.

    Raises:
        DataError: a row cannot be used and ``on_bad_row`` is raise, or no row is left.
    """
    return {
        role: [_check(source, stage, settings) for source in sources]
        for role, sources in digest_inputs(settings).items()
    }


def identify_parents(
    stage: str, settings: Mapping[str, Any], *, skip: Sequence[str] = ()
) -> dict[str, Parent]:
    """The models that a stage starts from, by role; ``skip`` names roles known otherwise.

    Raises:
        ConfigError: one is missing, or is a folder that holds no model.
    """
    parents = {}
    for role in (role for role in STAGES[stage].roles if role not in skip):
        key = ROLES[role]
        given = settings[key] if isinstance(settings[key], list) else [settings[key]]
        if given in ([None], []):
            raise ConfigError(
                f"{key}: no {role.replace('_', ' ')} is named", f"give --{key} FOLDER"
            )
        for position, model in enumerate(given):
            if _is_function_or_url(model):
                continue
            check_model(model, role=key)
            if role == "model":
                check_critic(settings)
            name = role if position == 0 else f"{role}_{position + 1}"
            parents[name] = identify(model, settings["model_revision"])
    return parents


def check_critic(settings: Mapping[str, Any]) -> None:
    """See that a critic that is an adapter has a policy that is one.

    Raises:
        ConfigError: the policy is a whole model, trained whole.
    """
    policy = str(settings["model_name_or_path"])
    if settings.get("critic") == "lora" and not settings["use_peft"] and not adapter_base(policy):
        raise ConfigError(
            f"critic: lora shares the frozen base of a LoRA policy, and {policy} is a whole model",
            "set use_peft: true, or critic: head or model",
        )


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> Run | None:
    """See that a run may write here; the record of the run to resume, where there is one.

    Raises:
        ConfigError: the folder holds something and neither resume nor overwrite was asked for.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ConfigError(f"output_dir: {folder}: is a file", "name a folder")
    run = load_run(folder)
    if run is None:
        if not all(map(is_unfinished_record, folder.iterdir())):
            raise ConfigError(
                f"output_dir: {folder}: not empty, and no run of ours", "choose another folder"
            )
        return None
    if run.status == "failed" and not (holds_results(folder) or (folder / METRICS).is_file()):
        return None
    if not resume and not overwrite:
        raise ConfigError(
            f"output_dir: {folder}: holds a {run.stage} run ({run.status})",
            "go on with --resume, start anew with --overwrite, or choose another output_dir",
        )
    return run


def _digest(path: str) -> Source:
    file = Path(path)
    if file.is_file():
        return Source(path, digest_file(file))
    if file.is_dir():
        parts = [f"{p.name} {digest_file(p)}" for p in sorted(file.iterdir()) if p.is_file()]
        if not parts:
            raise DataError(f"{path}: an empty folder", "put JSONL, JSON, CSV or Parquet files in")
        return Source(path, ";".join(parts))
    if is_hub_name(path):
        return Source(path, f"hub:{path}@{_hub_revision(path)}")
    raise DataError(f"{path}: no such file", f"looked from {Path.cwd()}")


def _hub_revision(name: str) -> str:
    """The commit of a hub's data set, by which its content is known; one split is meant."""
    splits = hub_splits(name)
    if len(splits) > 1:
        found = ", ".join(split.partition(":")[2] for split in splits)
        raise DataError(f"{name}: has the splits {found}", f"name the one to use: {splits[0]}")
    return hub_revision(name)


def _check(source: Source, stage: str, settings: Mapping[str, Any]) -> Source:
    from data_tools.shapes import load_records

    bad: list[DataError] = []
    records = load_records(
        source.path,
        kind=STAGES[stage].kind,
        format=settings["data_format"],
        on_error=bad.append if settings["on_bad_row"] == "drop" else None,
    )
    try:
        rows = sum(1 for _ in records)
    except DataError as error:
        remedy = error.remedy or "mend that row, or leave such rows out: --on_bad_row drop"
        raise DataError(error.message, remedy) from None
    for dropped in bad[:_NAMED_ROWS]:
        click.echo(f"dropped: {dropped.message}", err=True)
    if bad:
        click.echo(f"dropped {len(bad)} of {rows + len(bad)} rows of {source.path}", err=True)
    if rows == 0:
        raise DataError(f"{source.path}: no row left to learn from", "see `align data validate`")
    return Source(source.path, source.sha256, rows, len(bad))


def _is_function_or_url(spec: str) -> bool:
    return spec.startswith(("http://", "https://")) or bool(re.fullmatch(r"[\w.]+:\w+", spec))


def describe(settings: Settings) -> str:
    """The keys that differ from their defaults with their sources, as aligned lines."""
    changed = settings.changed()
    width = max((len(key) for key in changed), default=0)
    values = {key: str(redact(key, value)) for key, (value, _) in changed.items()}
    value_width = min(60, max((len(value) for value in values.values()), default=0))
    return "\n".join(
        f"{key:<{width}}  {values[key]:<{value_width}}  {source}"
        for key, (_, source) in sorted(changed.items())
    )
