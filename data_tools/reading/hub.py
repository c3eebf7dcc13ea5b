"""Data sets of the Hugging Face hub, named `owner/name` or `owner/name:split`."""

import re
from collections.abc import Iterator
from pathlib import Path

from alignment.errors import DataError
from data_tools.reading.rows import Row

NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")


def is_hub_name(path: str | Path) -> bool:
    """Whether a source can only be a name on the hub: no such file, and no suffix of one."""
    name = str(path)
    suffixes = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".txt")
    return bool(NAME.fullmatch(name)) and not name.endswith(suffixes) and not Path(name).exists()


def hub_splits(name: str) -> list[str]:
    """The source itself where it names a split, else one source a split.

    Raises:
        DataError: If the hub, or its cache, does not have it.
    """
    if ":" in name:
        return [name]
    from datasets import get_dataset_split_names

    try:
        return [f"{name}:{split}" for split in get_dataset_split_names(name)]
    except (OSError, ValueError) as error:
        raise _absent(name, error) from error


def hub_revision(name: str) -> str:
    """The commit that its rows are of, also where they are read from the cache.

    Raises:
        DataError: If the hub, or its cache, does not have it.
    """
    from datasets import load_dataset_builder

    try:
        return str(load_dataset_builder(name.partition(":")[0]).hash)
    except (OSError, ValueError) as error:
        raise _absent(name, error) from error


def hub_rows(name: str) -> Iterator[Row]:
    """The rows of one split.

    Raises:
        DataError: If the hub, or its cache, does not have it.
    """
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
    return DataError(f"{name}: neither a file nor a data set that can be had: {first}", "check it")
