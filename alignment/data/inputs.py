"""What a stage is given, checked before anything heavy is imported: data, models, output folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from alignment.disk import digest_file
from alignment.errors import ConfigError, DataError
from alignment.registry import STAGES
from alignment.runs.record import Source
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
