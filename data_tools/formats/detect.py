"""Decides which of the known formats a row is in.

To add a format: write a function from a row to a record in the module of its kind, add an Adapter
to that module's `FORMATS`, and add a row to tests/format_rows.py.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from alignment.errors import ConfigError
from data_tools.formats import pairs, ranked, supervised, trees
from data_tools.formats.advice import columns_advice
from data_tools.formats.record import TAGS, Adapter, Unusable, listed, tag

FORMATS: tuple[Adapter, ...] = (
    *pairs.FORMATS,
    *ranked.FORMATS,
    *trees.FORMATS,
    *supervised.FORMATS,
)
BY_NAME: dict[str, Adapter] = {adapter.name: adapter for adapter in FORMATS}

_Candidates: TypeAlias = tuple[list[Adapter], list[Adapter]]
"""Formats that must look at the values of a row, and those that fit if none of the first does."""


#: Files of hiyouga and others that are published as rankings.
RANKINGS = re.compile(r"oaast_rm|comparison_gpt4")


def detect(data: Mapping[str, Any]) -> Adapter:
    """Return the one format of a row, by its keys and the kinds of their values.

    A format that needs all keys of another one and more wins over it; formats of a named data set
    win over plain shapes.

    Raises:
        Unusable: If no format matches (the message names the nearest) or two do (it names both).
    """
    return _decided(data, _known(data))


def detect_each(batch: Sequence[Mapping[str, Any]]) -> list[Adapter | Unusable]:
    """Return what `detect` returns, or raises, for each row of a batch.

    If all rows have the same keys and kinds of values, the candidates are looked up only once.
    """
    if not _alike(batch):
        return [_detected(data) for data in batch]
    by_look, matches = known = _known(batch[0])
    looks = [adapter.when for adapter in by_look if adapter.when]
    # several candidates: each row has to be looked at by itself
    if len(matches) != 1 or len(looks) > 1:
        return [_detected(data, known) for data in batch]
    (only,) = matches
    if not looks:
        return [only] * len(batch)
    (look,) = looks
    return [_detected(data, known) if look(data) else only for data in batch]


def _alike(batch: Sequence[Mapping[str, Any]]) -> bool:
    """Whether rows have the same keys in the same order, and values of the same types, no lists."""
    if len(batch) < 2 or len(set(map(tuple, batch))) > 1:
        return False
    columns = zip(*[data.values() for data in batch], strict=True)
    kinds = [set(map(type, column)) for column in columns]
    return all(len(found) == 1 and list not in found for found in kinds)


def _detected(data: Mapping[str, Any], known: _Candidates | None = None) -> Adapter | Unusable:
    """Return the format of a row, or why it has none."""
    try:
        return _decided(data, known or _known(data))
    except Unusable as unknown:
        return unknown


def _known(data: Mapping[str, Any]) -> _Candidates:
    """Return the candidates for a row."""
    kinds = tuple(map(type, data.values()))
    lists: tuple[str, ...] = ()
    if list in kinds:  # the type alone does not say what a list holds
        lists = tuple(tag(value) for value in data.values() if type(value) is list)
    return _candidates(tuple(data), kinds, lists)


def _decided(data: Mapping[str, Any], known: _Candidates) -> Adapter:
    """Return the one candidate that fits a row.

    Raises:
        Unusable: If none or two fit.
    """
    by_look, matches = known
    # a look at the values is stronger than keys: such a format is a special case of another
    for adapter in by_look:
        if adapter.when and adapter.when(data):
            matches = [a for a in by_look if a.when and a.when(data)]
            break
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise Unusable("unknown_format", *_unknown(data))
    names = " and ".join(sorted(a.name for a in matches))
    raise Unusable(
        "two_formats",
        f"the row fits two formats: {names}; the row has {listed(data)}",
        f"choose one with --format, or {columns_advice(data)}",
    )


def by_name(name: str) -> Adapter:
    """Return the format that `--format` names.

    Raises:
        ConfigError: If there is none; the message names the nearest ones.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name, BY_NAME, n=3, cutoff=0.4)
    raise ConfigError(
        f"--format {name}: no such format",
        f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(BY_NAME))}",
    )


@functools.lru_cache(maxsize=1000)  # the rows of a file have few combinations of keys and kinds
def _candidates(
    keys: tuple[str, ...], kinds: tuple[type, ...], lists: tuple[str, ...]
) -> _Candidates:
    """Return the candidates for rows with these keys, types of values, and kinds of lists."""
    named = iter(lists)
    tags = {
        key: next(named) if kind is list else TAGS.get(kind, "null")
        for key, kind in zip(keys, kinds, strict=True)
    }
    by_look = [a for a in _best(FORMATS, tags) if a.when]
    return by_look, _best([a for a in FORMATS if not a.when], tags)


def _best(formats: Iterable[Adapter], tags: Mapping[str, str]) -> list[Adapter]:
    """Return the strongest matches, without those that need only a part of another's keys."""
    found = {a: keys for a in formats if a.auto and (keys := a.keys_in(tags)) is not None}
    strongest = max((a.strength for a in found), default=0)
    best = {a: keys for a, keys in found.items() if a.strength == strongest}
    # a proper subset of keys is the more general format
    return [a for a, keys in best.items() if not any(keys < other for other in best.values())]


def nearest(data: Mapping[str, Any]) -> tuple[Adapter, list[str], bool]:
    """Return the format nearest to a row, what the row lacks, and whether it has any needed key."""
    tags = {key: tag(value) for key, value in data.items()}
    lacks = {a: a.missing(tags) for a in FORMATS if a.auto and a.strength}

    def distance(adapter: Adapter) -> tuple[float, int, int]:
        # an absent key is a stronger sign of another format than a value of another type
        absent = sum(phrase.startswith("no ") for phrase in lacks[adapter])
        return absent / len(adapter.needs), len(lacks[adapter]), adapter.strength

    best = min(lacks, key=distance)
    return best, lacks[best], distance(best)[0] < 1


def _unknown(data: Mapping[str, Any]) -> tuple[str, str]:
    """Return message and remedy for a row in no known format."""
    best, lacks, related = nearest(data)
    inside = _rows_inside(data)
    if inside:
        reason = f"no known format: the row has {listed(data)}"
        return reason, f"if the rows are inside {inside!r}: `jq -c '.{inside}[]' FILE`"
    if (no_ranking := unranked(data)) is not None:
        return no_ranking.reason, no_ranking.remedy
    remedy = columns_advice(data) or "see the formats in data_tools/README.md"
    if related:
        reason = f"{'; '.join(lacks)}: no known format, nearest is {best.name!r}"
        return f"{reason}; the row has {listed(data)}", remedy
    return f"no known format: the row has {listed(data)}", remedy


@functools.lru_cache(maxsize=100)
def is_ranking(source: str) -> bool:
    """Whether a file is known to have its best answer first."""
    return RANKINGS.search(Path(source).name) is not None


def as_ranking(data: Mapping[str, Any]) -> Adapter | None:
    """Return the format that a row with a list of answers has if they are ranked, or None."""
    tags = {key: tag(value) for key, value in data.items()}
    formats = (BY_NAME[name] for name in ("alpaca-ranked", "ranked"))
    return next((adapter for adapter in formats if adapter.keys_in(tags)), None)


def unranked(data: Mapping[str, Any]) -> Unusable | None:
    """Return why a row with a list of answers is no ranking, or None if it has no such list."""
    adapter = as_ranking(data)
    answers = next((key for key, value in data.items() if tag(value) == "texts"), None)
    if adapter is None or answers is None:  # an empty list has the shape, and no answers
        return None
    reason = f"{answers!r} is a list of answers, and nothing says that the best is first"
    remedy = f"if it is: --format {adapter.name}; else {columns_advice(data, ranked=False)}"
    return Unusable("unknown_format", f"{reason}; the row has {listed(data)}", remedy)


def _rows_inside(data: Mapping[str, Any]) -> str | None:
    """The column that holds a list of rows in a known format, if a row has little else."""
    if len(data) > 3:
        return None
    nested = {key: value[0] for key, value in data.items() if tag(value) == "turns"}
    found = ((key, _detected(row)) for key, row in nested.items())
    return next((k for k, one in found if isinstance(one, Adapter) and one.strength), None)
