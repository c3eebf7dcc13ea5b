"""The data files behind the keys `train_data` and `eval_data`: one list for every reader."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignment.data.cache import known_digest, remember_digest
from alignment.disk import digest_file
from alignment.errors import ConfigError, DataError
from alignment.runs import Source
from data_tools.reading import data_files, hub_revision, hub_splits, is_hub_name

#: Roles of data, and the keys that name them.
DATA_ROLES = {"train": "train_data", "eval": "eval_data"}


def digest_inputs(settings: Mapping[str, Any]) -> dict[str, list[Source]]:
    """The data of a stage by role (train, eval), named by content.

    Raises:
        ConfigError: no training data is named, or a file is not there.
    """
    return {
        role: [Source(path, digest_source(path)) for path in paths]
        for role, paths in data_paths(settings).items()
    }


def data_paths(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """The paths of each role that is given.

    Raises:
        ConfigError: no training data is named.
    """
    if not settings["train_data"]:
        raise ConfigError("train_data: no data to train on", "name a file: --train_data FILE")
    return {role: settings[key] for role, key in DATA_ROLES.items() if settings[key]}


def files_of(path: str) -> list[Path]:
    """The files that a path stands for, in the order in which they are read; none of a hub name.

    Raises:
        DataError: there is no such file, or a folder has no data file.
    """
    if is_hub_name(path):
        return []
    if not Path(path).exists():
        raise DataError(f"{path}: no such file", f"looked from {Path.cwd()}")
    return data_files(path)


def check_sources(settings: Mapping[str, Any]) -> None:
    """See that all data of a stage is there, without reading it.

    Raises:
        ConfigError: no training data is named.
        DataError: there is no such file, or a folder has no data file.
    """
    for paths in data_paths(settings).values():
        for path in paths:
            files_of(path)


def digest_source(path: str) -> str:
    """What a file, a folder or a hub data set holds, as a digest.

    Files that have been read before are known by their size and time, and are not read again.
    """
    if not files_of(path):
        return hub_digest(path)
    known = known_digest(state_of(path))
    if known is not None:
        return known
    found = digest_of(path, (digest_file(file) for file in files_of(path)))
    remember_digest(state_of(path), found)
    return found


def state_of(path: str) -> list[Any]:
    """What changes when a source is written: sizes and times of files, the commit of a data set."""
    files = files_of(path)
    if not files:
        return [hub_digest(path)]
    stats = [(str(file.absolute()), file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats]


def digest_of(path: str, digests: Iterable[str]) -> str:
    """The digest of a source from those of its files; a single file's is its own."""
    found = list(digests)
    if Path(path).is_file():
        return found[0]
    names = [str(file.relative_to(path)) for file in files_of(path)]
    lines = "\n".join(f"{name} {digest}" for name, digest in zip(names, found, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def hub_digest(name: str) -> str:
    """The commit of a hub data set, which decides its content; one split is meant.

    Raises:
        DataError: the data set has several splits and none is named.
    """
    splits = hub_splits(name)
    if len(splits) > 1:
        found = ", ".join(split.partition(":")[2] for split in splits)
        raise DataError(f"{name}: has the splits {found}", f"name the one to use: {splits[0]}")
    return f"hub:{name}@{hub_revision(name)}"
