"""Reads data sets of the Hugging Face hub, named `owner/name` or `owner/name:split`."""

import re
from collections.abc import Iterator
from pathlib import Path

from alignment.errors import DataError
from data_tools.reading.network import reach_hub
from data_tools.reading.rows import Row

NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")


def is_hub_name(path: str | Path) -> bool:
    """Whether a source looks like a name on the hub, and not like a file that is missing."""
    name = str(path)
    suffixes = (
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".parquet",
        ".arrow",
        ".xlsx",
        ".gz",
        ".zst",
        ".txt",
    )
    return bool(NAME.fullmatch(name)) and not name.endswith(suffixes) and not Path(name).exists()


def hub_splits(name: str) -> list[str]:
    """Return one source for each split of a data set, or the source itself if it names a split.

    Raises:
        DataError: If neither the hub nor its cache has the data set.
    """
    if ":" in name:
        return [name]
    reach_hub()
    from datasets import get_dataset_split_names

    try:
        return [f"{name}:{split}" for split in get_dataset_split_names(name)]
    except (OSError, ValueError) as error:
        raise _absent(name, error) from error


def hub_revision(name: str) -> str:
    """Return the commit of a data set's rows, also if they are read from the cache.

    Raises:
        DataError: If neither the hub nor its cache has the data set.
    """
    reach_hub()
    from datasets import load_dataset_builder

    try:
        # the hash of the builder is the commit, also without a network
        return str(load_dataset_builder(name.partition(":")[0]).hash)
    except (OSError, ValueError) as error:
        raise _absent(name, error) from error


def hub_rows(name: str) -> Iterator[Row]:
    """Yield the rows of one split.

    Raises:
        DataError: If neither the hub nor its cache has the data set.
    """
    reach_hub()
    from datasets import load_dataset

    repository, _, split = name.partition(":")
    try:
        rows = load_dataset(repository, split=split)
    except (OSError, ValueError) as error:
        raise _absent(name, error) from error
    for number, data in enumerate(rows, start=1):
        yield Row(name, number, None, data)


def _absent(name: str, error: Exception) -> DataError:
    first = str(error).partition("\n")[0][:200]
    return DataError(
        f"{name}: no such file, and no data set that can be loaded: {first}", "check the name"
    )
