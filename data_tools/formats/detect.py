"""The decision which of the known formats a row is in.

To add one: write a function from a row to a record in the file of its kind, put it into that
file's `FORMATS`, and add a row of it to the tests' fixtures.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignment.errors import ConfigError
from data_tools.formats import pairs, ranked, supervised, trees
from data_tools.formats.record import ALIASES, Adapter, Unusable, listed, shown, tag

FORMATS: tuple[Adapter, ...] = (
    *pairs.FORMATS,
    *ranked.FORMATS,
    *trees.FORMATS,
    *supervised.FORMATS,
)
BY_NAME: dict[str, Adapter] = {adapter.name: adapter for adapter in FORMATS}

_Candidates = tuple[list[Adapter], list[Adapter]]
_KNOWN: dict[tuple[object, ...], _Candidates] = {}
_KNOWN_LIMIT = 1000
ANSWERS = ("chosen", "rejected", "completion")


def detect(data: Mapping[str, Any]) -> Adapter:
    """The one format a row is in, by its keys and the kinds of their values.

    A format that needs all the keys of another and more wins over it; named formats win over plain
    shapes. What is decided of keys and kinds alone is remembered.

    Raises:
        Unusable: If no format matches (naming the nearest), or two do (naming both).
    """
    return _decided(data, _known(data))


def detect_each(batch: Sequence[Mapping[str, Any]]) -> list[Adapter | Unusable]:
    """What `detect` says of each of some rows, or raises.

    Where all rows share their keys and the kinds of their values, candidates are found once.
    """
    if not _alike(batch):
        return [_detected(data) for data in batch]
    by_look, matches = known = _known(batch[0])
    looks = [adapter.when for adapter in by_look if adapter.when]
    if len(matches) != 1 or len(looks) > 1:
        return [_detected(data, known) for data in batch]
    (only,) = matches
    if not looks:
        return [only] * len(batch)
    (look,) = looks
    return [_detected(data, known) if look(data) else only for data in batch]


def _alike(batch: Sequence[Mapping[str, Any]]) -> bool:
    """Whether rows have the same keys in the same order, and values of the same plain types."""
    if len(batch) < 2 or len(set(map(tuple, batch))) > 1:
        return False
    columns = zip(*[data.values() for data in batch], strict=True)
    kinds = [set(map(type, column)) for column in columns]
    return all(len(found) == 1 and list not in found for found in kinds)


def _detected(data: Mapping[str, Any], known: _Candidates | None = None) -> Adapter | Unusable:
    """The format of a row, or why none could be told."""
    try:
        return _decided(data, known or _known(data))
    except Unusable as unknown:
        return unknown


def _known(data: Mapping[str, Any]) -> _Candidates:
    """The candidates for rows of these keys and kinds of values, found once."""
    kinds = tuple(map(type, data.values()))
    signature: tuple[object, ...] = (*data, *kinds)
    if list in kinds:
        signature = (*signature, *[tag(value) for value in data.values() if type(value) is list])
    known = _KNOWN.get(signature)
    if known is None:
        if len(_KNOWN) >= _KNOWN_LIMIT:
            _KNOWN.clear()
        known = _KNOWN[signature] = _candidates(data)
    return known


def _decided(data: Mapping[str, Any], known: _Candidates) -> Adapter:
    """The one candidate for a row."""
    by_look, matches = known
    for adapter in by_look:
        if adapter.when and adapter.when(data):
            matches = [a for a in by_look if a.when and a.when(data)]
            break
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise Unusable("unknown_format", *_unknown(data))
    names = " and ".join(sorted(a.name for a in matches))
    raise Unusable("two_formats", f"the row fits two formats: {names}", "choose one with --format")


def by_name(name: str) -> Adapter:
    """The format that `--format` names.

    Raises:
        ConfigError: If there is none, with the nearest names.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name, BY_NAME, n=3, cutoff=0.4)
    raise ConfigError(
        f"--format {name}: no such format",
        f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(BY_NAME))}",
    )


def _candidates(data: Mapping[str, Any]) -> _Candidates:
    """Formats that must look at the values first, and the ones left where none of those match."""
    tags = {key: tag(value) for key, value in data.items()}
    by_look = [a for a in _best(FORMATS, tags) if a.when]
    return by_look, _best([a for a in FORMATS if not a.when], tags)


def _best(formats: Iterable[Adapter], tags: Mapping[str, str]) -> list[Adapter]:
    """The strongest matches of which none is known by fewer keys than another."""
    found = {a: keys for a in formats if a.auto and (keys := a.keys_in(tags)) is not None}
    strongest = max((a.strength for a in found), default=0)
    best = {a: keys for a, keys in found.items() if a.strength == strongest}
    return [a for a, keys in best.items() if not any(keys < other for other in best.values())]


def nearest(data: Mapping[str, Any]) -> tuple[Adapter, list[str], bool]:
    """The format a row comes nearest to, what it lacks, and whether any needed key is there."""
    tags = {key: tag(value) for key, value in data.items()}
    lacks = {a: a.missing(tags) for a in FORMATS if a.auto and a.strength}

    def distance(adapter: Adapter) -> tuple[float, int, int]:
        absent = sum(phrase.startswith("no ") for phrase in lacks[adapter])
        return absent / len(adapter.needs), len(lacks[adapter]), adapter.strength

    best = min(lacks, key=distance)
    return best, lacks[best], distance(best)[0] < 1


def passed_over(data: Mapping[str, Any]) -> Unusable | None:
    """What of a row was not read where it was taken for a prompt alone: an answer that is none."""
    answers = [name for part in ANSWERS for name in ALIASES[part] if name in data]
    if not answers:
        return None
    values = ", ".join(f"{name!r} is {shown(data[name])}" for name in answers)
    return Unusable(
        "null" if any(data[name] is None for name in answers) else "missing",
        f"of this row only the prompt can be read: {values}",
        "mend the row, or take prompts alone with --format prompt",
    )


def _unknown(data: Mapping[str, Any]) -> tuple[str, str]:
    """What to say of a row in no known format."""
    best, lacks, related = nearest(data)
    if related:
        reason = f"{'; '.join(lacks)}: no known format, nearest is {best.name!r}"
        return f"{reason}; the row has {listed(data)}", "name the format, or rename the columns"
    nested = next((key for key, value in data.items() if tag(value) == "turns"), None)
    remedy = "see the formats in data_tools/README.md"
    if nested is not None and len(data) <= 3:
        remedy = f"if the rows are inside {nested!r}: `jq -c '.{nested}[]' FILE`"
    return f"no known format: the row has {listed(data)}", remedy
