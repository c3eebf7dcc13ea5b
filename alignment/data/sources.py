"""The data files behind the keys `train_data` and `eval_data`: one list for every reader.

Several sources can be mixed in shares of their weights: `train_data: [a.jsonl:0.7, b.jsonl:0.3]`.
"""

import hashlib
import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignment.data.cache import known_digest, remember_digest
from alignment.disk import digest_file
from alignment.errors import ConfigError, DataError
from alignment.runs import Source
from data_tools.formats import Columns, Located, listed_entry, one_split, weighted
from data_tools.reading import hub_revision, hub_splits, is_hub_name

Numbers = npt.NDArray[np.int64]
#: Nanoseconds, several times the tick of a Linux file system's clock.
_TICK = 50_000_000
#: Roles of data, and the keys that name them.
DATA_ROLES = {"train": "train_data", "eval": "eval_data"}


def digest_inputs(settings: Mapping[str, Any]) -> dict[str, list[Source]]:
    """The data of a stage by role (train, eval), named by content.

    Raises:
        ConfigError: no training data is named, or a file is not there.
    """
    return {
        role: weigh([Source(path, digest_source(path)) for path in paths], settings, role)
        for role, paths in data_paths(settings).items()
    }


def data_paths(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """The paths of each role that is given, without weights.

    Raises:
        ConfigError: no training data is named.
    """
    if not settings["train_data"]:
        raise ConfigError("train_data: no data to train on", "name a file: --train_data FILE")
    return {
        role: [weighted(path)[0] for path in settings[key]]
        for role, key in DATA_ROLES.items()
        if settings[key]
    }


def files_of(path: str) -> list[Path]:
    """The files that a path stands for, in the order in which they are read; none of a hub name.

    Raises:
        DataError: there is no such file, or a folder has no data file or several splits.
    """
    return [one.file for one in located_files(path) if not is_hub_name(one.file)]


def located_files(path: str, columns: Columns | None = None) -> list[Located]:
    """The files that a path stands for, or the hub name, each with its columns.

    Raises:
        ConfigError: a list of data sets cannot be read.
        DataError: there is no such file, or a folder has no data file.
    """
    if is_hub_name(path) and listed_entry(path) is None:
        return [Located(Path(path), columns)]
    if not is_there(path):
        raise DataError(f"{path}: no such file", f"looked from {Path.cwd()}")
    return one_split(path, columns)


def is_there(path: str) -> bool:
    """Whether a path is a file, a folder or a listed data set."""
    return Path(path).exists() or listed_entry(path) is not None


def check_sources(settings: Mapping[str, Any]) -> None:
    """See that all data of a stage is there, without reading it.

    Raises:
        ConfigError: no training data is named.
        DataError: there is no such file, or a folder has no data file.
    """
    for role, paths in data_paths(settings).items():
        weigh([Source(path, "") for path in paths], settings, role)
        for path in paths:
            files_of(path)


def digest_source(path: str) -> str:
    """What a file, a folder or a hub data set holds, as a digest.

    Files that have been read before are known by their size and times, and are not read again.
    """
    if not files_of(path):
        return hub_digest(path)
    state = state_of(path)
    known = known_digest(state)
    if known is not None:
        return known
    kept = lasting(state)
    found = digest_of(path, (digest_file(file) for file in files_of(path)))
    # else the digest of what was there before would be that of what is there now
    remember_digest(kept if state_of(path) == state else None, found)
    return found


def state_of(path: str) -> list[Any]:
    """What changes when a source is written: sizes and times of files, the commit of a data set.

    Two times of a file are in it: who copies or unpacks data may set that of its content, but
    nobody can set that of its last change of any kind.
    """
    files, entry = files_of(path), listed_entry(path)
    if not files:
        return [hub_digest(path)] if entry is None else [hub_digest(path), entry]
    stats = [(str(file.absolute()), file.stat()) for file in files]
    state: list[Any] = [
        # the inode too: a file moved onto another may have its size and times
        [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        for name, stat in stats
    ]
    return state if entry is None else [*state, entry]


def lasting(state: list[Any]) -> list[Any] | None:
    """A state that was just found, or None if another write could leave it as it is.

    The clock of a file system has ticks, so a second write within one tick has the time of the
    first.
    """
    changed = (one[3] for one in state if isinstance(one, list))
    return state if max(changed, default=0) < time.time_ns() - _TICK else None


def digest_of(path: str, digests: Iterable[str]) -> str:
    """The digest of a source from those of its files; a single file's is its own."""
    found, entry = list(digests), listed_entry(path)
    if Path(path).is_file():
        return found[0]
    files = files_of(path)
    folder = Path(path) if entry is None else files[0].parent
    names = [str(file.relative_to(folder)) for file in files]
    lines = "\n".join(f"{name} {digest}" for name, digest in zip(names, found, strict=True))
    if entry is not None:  # its columns decide what the rows become
        lines += f"\n{json.dumps(entry, sort_keys=True)}"
    return hashlib.sha256(lines.encode()).hexdigest()


def hub_digest(path: str) -> str:
    """The commit of a hub data set, which decides its content; one split is meant.

    Raises:
        DataError: the data set has several splits and none is named.
    """
    name = str(located_files(path)[0].file)
    splits = hub_splits(name)
    if len(splits) > 1:
        found = ", ".join(split.partition(":")[2] for split in splits)
        raise DataError(f"{name}: has the splits {found}", f"name the one to use: {splits[0]}")
    return f"hub:{name}@{hub_revision(name)}"


def weigh(sources: Sequence[Source], settings: Mapping[str, Any], role: str) -> list[Source]:
    """Sources with their weights in the mix of a role, if they are given (`path:0.3`).

    Raises:
        ConfigError: only some have a weight, one is 0, or it is not the training data.
    """
    key = DATA_ROLES[role]
    weights = [weighted(path)[1] for path in settings[key]]
    if not any(weight is not None for weight in weights):
        return list(sources)
    if role != "train":
        raise ConfigError(f"{key}: held-out data has no weights", "leave them out")
    for path, weight in zip(settings[key], weights, strict=True):
        if not weight:
            example = "give each source one: a.jsonl:0.7 b.jsonl:0.3"
            raise ConfigError(f"{key}: {path}: no weight in the mix", example)
    return [replace(one, weight=w) for one, w in zip(sources, weights, strict=True)]


def mixed(sources: Sequence[Source], seed: int) -> Numbers:
    """Rows of all sources in shares of their weights, in order; without weights all of them.

    No row is taken twice: the source that is the smallest for its weight is used whole.
    """
    sizes = [one.rows or 0 for one in sources]
    starts = np.cumsum([0, *sizes])
    weights = [one.weight for one in sources if one.weight is not None]
    if not weights:
        return np.arange(starts[-1])
    most = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    drawn = [
        start + np.sort(random.Random(f"{seed}:{i}").sample(range(size), round(most * weight)))
        for i, (start, size, weight) in enumerate(zip(starts[:-1], sizes, weights, strict=True))
    ]
    return np.concatenate(drawn).astype(np.int64)


def drawn(settings: Mapping[str, Any], sizes: Sequence[int]) -> int:
    """How many training rows are used of sources with these numbers of rows."""
    named = zip(settings["train_data"], sizes, strict=True)
    sources = [Source(path, "", size) for path, size in named]
    return len(mixed(weigh(sources, settings, "train"), settings["seed"]))


def describe_mix(sources: Sequence[Source], chosen: Numbers) -> Iterator[str]:
    """One line per source of a mix: how many of its rows are drawn, and their share of all."""
    starts = np.cumsum([0, *(one.rows or 0 for one in sources)])
    for i, one in enumerate(sources):
        if one.weight is not None:
            count = int(np.count_nonzero((chosen >= starts[i]) & (chosen < starts[i + 1])))
            share = count / max(len(chosen), 1)
            yield f"mix: {count:,} of {one.rows or 0:,} rows of {one.path} ({share:.1%})"
