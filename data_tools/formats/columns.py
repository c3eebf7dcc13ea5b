"""Accounts for the columns of a row: which are read, which hold text that nothing reads.

A column that holds text and is not read is named and counted, and decides what a row is not: a row
with more texts than a bare prompt or one answer has is no bare prompt and no single answer.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.formats.advice import (
    ABOUT,
    LOOKS_LIKE_CONTEXT,
    columns_advice,
    hint,
    is_label,
    is_score,
    is_scored,
    is_turn,
    left_out_of_question,
    not_this,
)
from data_tools.formats.context import (
    NUMBERED,
    WEIGHTS,
    margin_of,
    refuse_media,
    refuse_weights,
    scores_of_sides,
    with_context,
)
from data_tools.formats.record import (
    ALIASES,
    CONTEXT,
    REASONING,
    TEMPLATE_INPUTS,
    Adapter,
    Data,
    Kind,
    Record,
    Result,
    Unusable,
    is_filled,
    listed,
    shown,
)
from data_tools.formats.turns import MEDIA, TURN_KEYS
from data_tools.reading import data_files, read_rows

ANSWERS = ("chosen", "rejected", "completion")
PARTS_BESIDE: Mapping[Kind, tuple[str, ...]] = {
    "text": ANSWERS,
    "sft": ("rejected",),
    "unpaired": ("rejected",),
}
"""Parts that a row with a record of a kind has no column for: it would be something else."""
BOOKKEEPING = frozenset({"source", "source_row", "group_id"})
"""Columns that `align data convert` adds, always all of them."""
PART_KEYS = frozenset({"type", "text", "value"})
"""All that is read of a part of a turn's content."""
LONG = 30
"""Characters from which a text inside another one is there for a reason."""


class Reading(NamedTuple):
    """What becomes of the columns of a row with these names.

    Attributes:
        context: Columns of CONTEXT that the format itself does not read.
        rest: Columns that nothing reads.
        whole: Columns that are read whole, so that nothing inside is lost.
        about: Columns that nothing reads, whose names say that they hold no text of the row.
        marks: Columns that nothing reads that may be labels or scores, by their names.
        hot: Whether there are columns that decide whether a row is usable, or its margin.
    """

    context: tuple[str, ...]
    rest: tuple[str, ...]
    whole: frozenset[str]
    about: frozenset[str]
    marks: tuple[str, ...]
    hot: bool


@functools.lru_cache(maxsize=1000)  # the rows of a file have few combinations of keys
def reading(adapter: Adapter, names: tuple[str, ...]) -> Reading:
    """Return what a format leaves of the columns of a row."""
    own = adapter.columns(names)
    # every format puts a system prompt first, also one that is recognised by it
    context = [name for name in CONTEXT if name in names and (name not in own or name == "system")]
    ours = BOOKKEEPING if BOOKKEEPING.issubset(names) else frozenset()
    read = {*own, *context, *ours, "rows"} if adapter.gather else {*own, *context, *ours}
    # the messages of a tree are joined into one column, which the format does not name
    is_tree = adapter.gather is not None and "rows" not in names
    rest = () if is_tree else tuple(name for name in names if name not in read)
    return Reading(
        tuple(context),
        rest,
        frozenset((*TEMPLATE_INPUTS, *(["rows"] if adapter.gather else ()))),
        frozenset(name for name in rest if ABOUT.fullmatch(name)),
        tuple(name for name in rest if hint(name) in ("label", "chosen") or is_scored(name)),
        not (MEDIA | WEIGHTS | NUMBERED).isdisjoint(names),
    )


def read_row(adapter: Adapter, data: Data) -> Result:
    """Read a row with its format, and with the columns that mean the same in every format.

    Raises:
        Unusable: If the row cannot become a record.
    """
    known = reading(adapter, tuple(data))
    if known.hot:
        refuse_media(data)
        refuse_weights(data)
    result = adapter.read(data)
    names = known.context
    if isinstance(result, list):
        return [with_context(r, data, names) if isinstance(r, Record) else r for r in result]
    if names:
        result = with_context(result, data, names)
    if known.hot and result.kind == "preference" and result.margin is None:
        result.margin = margin_of(data)
    return result


def unread(adapter: Adapter, data: Data, records: Sequence[Record]) -> tuple[str, ...]:
    """Return the columns with text, a label or a score, and the keys inside, that are in no record.

    A column that repeats what a record holds is not lost.
    """
    known = reading(adapter, tuple(data))
    rest = known.rest
    kind = records[0].kind if records else ""
    if known.hot and kind == "preference":
        sides = scores_of_sides(data)
        # some formats have a margin of their own
        if sides and records[0].margin == margin_of(data):
            rest = tuple(name for name in rest if name not in sides)
    elif known.context and kind == "prompt":  # it has no answer to which thoughts could lead
        rest = (*rest, *(name for name in known.context if name in REASONING))
    said = Said(records)
    found = []
    for name in rest:
        value = data[name]
        lost = holds_text(value) and (name in known.about or not said.has(texts_of(value)))
        if not lost and name in known.marks:
            lost = is_label(name, value) or is_score(name, value)
        if lost:
            found.append(name)
    inside: dict[str, None] = {}
    for name, value in data.items():
        is_turns = type(value) is list and _are_plain(value)
        if type(value) in (list, dict) and not is_turns and name not in known.whole:
            # a column that only repeats texts may hold scores
            places = () if name in found else _inside(name, value, said, adapter.reads)
            inside.update(dict.fromkeys(places))
    return (*found, *inside)


class Said:
    """The texts of the records of a row; they are looked at only if a column may repeat one."""

    __slots__ = ("_records", "_texts", "_whole")

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._texts: list[str] | None = None
        self._whole: frozenset[str] = frozenset()

    @property
    def texts(self) -> list[str]:
        """All texts, the question first."""
        if self._texts is None:
            self._texts = [text for record in self._records for text in _texts(record)]
            self._whole = frozenset(map(str.strip, self._texts))
        return self._texts

    def has(self, texts: Iterable[str]) -> bool:
        """Whether every text is in a record already, as a part of one only if it is long."""
        said = self.texts
        for text in map(str.strip, texts):
            if text in self._whole:
                continue
            # a search in long texts takes a while, and a short text may be in one by chance
            if len(text) < LONG or not any(text in one for one in said):
                return False
        return True


def _texts(record: Record) -> Iterator[str]:
    parts = (record.prompt, record.chosen, record.rejected, record.completion, *record.answers)
    for part in (record.text, *parts, record.messages or ""):
        if isinstance(part, str):
            if part:
                yield part
        else:
            for turn in part:
                yield turn["content"]


def holds_text(value: Any) -> bool:
    """Whether a value is or holds text, or bytes."""
    if isinstance(value, str):
        return bool(value) and (len(value) > len("null") or is_filled(value))
    if isinstance(value, list | dict | bytes):
        return any(True for _ in texts_in(value))
    return False


def texts_of(value: Any) -> Iterable[str]:
    """Return the texts in a value, which may be a text itself."""
    return (value,) if isinstance(value, str) else texts_in(value)


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in a value, at any depth; bytes count too, roles and types do not."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            if part.strip():
                yield part
        elif isinstance(part, bytes):
            yield repr(part[:LONG])
        elif isinstance(part, dict):
            pending += [one for key, one in part.items() if key not in ("role", "from", "type")]
        elif isinstance(part, list):
            pending += part


def texts_of_files(path: Path, *, encoding: str | None = None) -> Iterator[str]:
    """Yield all text of each file of a source, its rows on lines of their own.

    Raises:
        DataError: If there is no such file, or it cannot be read.
    """
    for file in data_files(path):
        rows = read_rows(file, encoding=encoding)
        yield "\n".join(text for row in rows for text in texts_in(row.data))


class _Place(NamedTuple):
    """A value inside a column: `messages[].key`, the last key on the way to it, the value."""

    name: str
    key: str
    value: Any


def _inside(name: str, value: Any, said: Said, read: Collection[str]) -> Iterator[str]:
    """Yield the places in a column with text or a score that nothing reads.

    Args:
        name: The name of the column.
        value: Its value, a list or an object.
        said: What the records of its row hold.
        read: Places that are read as scores.
    """
    pending = [_Place(name, "", value)]
    while pending:  # a loop, as columns may be nested deeper than Python recurses
        place = pending.pop()
        if type(place.value) is dict:
            pending += _in_object(place)
        elif type(place.value) is list:
            pending += _in_list(place)
        elif place.name not in read and _is_lost(place, said):
            yield place.name


def _are_plain(turns: list[Any]) -> bool:
    """Whether turns have a role and a text each, and nothing else, as nearly all have."""
    for one in turns:
        if type(one) is not dict or len(one) != 2 or "role" not in one:
            return False
        if type(one.get("content")) is not str:
            return False
    return True


def _in_list(place: _Place) -> Iterator[_Place]:
    if place.value and type(place.value[0]) in (int, float):  # token ids, an embedding
        return iter(())
    return (_Place(f"{place.name}[]", place.key, one) for one in place.value)


def _in_object(place: _Place) -> Iterator[_Place]:
    read: Collection[str] = TEMPLATE_INPUTS
    if is_turn(place.value) and "replies" not in place.value:  # not all of a tree is used
        read = TURN_KEYS
    elif place.key == "content":
        read = PART_KEYS
    for key, value in place.value.items():
        if key not in read or (key == "content" and type(value) is list):
            above = place.name.removesuffix(f".{key}[]")  # replies to replies have one name
            yield _Place(f"{above}.{key}", key, value)


def _is_lost(place: _Place, said: Said) -> bool:
    """Whether a value is a text that is in no record, or a score."""
    if not holds_text(place.value):
        return is_score(place.key, place.value)
    if said.has(texts_of(place.value)):
        return False
    # a whole dialogue begins with the question
    return not (type(place.value) is str and place.value.startswith(tuple(said.texts[:1])))


def more_than(record: Record, unused: tuple[str, ...], data: Data, format: str) -> Unusable | None:
    """Return why a row is more than the one answer or the text that its record holds.

    Columns about a row are only counted; a second side of a pair, or an answer to a plain text, is
    what the file is for.
    """
    named = _telling(record.kind, unused)
    if not named:
        return None
    parts = PARTS_BESIDE.get(record.kind, ())
    named = tuple(name for name in named if name in data and not is_score(name, data[name]))
    more = [name for name in named if hint(name) in parts]
    if record.kind == "sft":
        more += [name for name in named if is_label(name, data[name])]
    if not more:
        return None if record.kind == "text" else left_out_of_question(named, data, format)
    held = {"text": "text", "sft": "one answer"}.get(record.kind, "labelled answers")
    return not_this(f"more than {held}", more, data)


@functools.lru_cache(maxsize=1000)
def _telling(kind: Kind, unused: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the columns that may show by their names that a row is more than its record."""
    parts = (*PARTS_BESIDE.get(kind, ()), *(("label", "chosen") if kind == "sft" else ()))
    return tuple(
        name for name in unused if hint(name) in parts or LOOKS_LIKE_CONTEXT.fullmatch(name)
    )


def passed_over(unused: Iterable[str], data: Data) -> Unusable | None:
    """Return why a row that was read as a bare prompt is none, if its columns hold more."""
    answers = [name for part in ANSWERS for name in ALIASES[part] if name in data]
    if answers:
        values = ", ".join(f"{name!r} is {shown(data[name])}" for name in answers)
        return Unusable(
            "null" if any(data[name] is None for name in answers) else "missing",
            f"of this row only the prompt can be read: {values}; the row has {listed(data)}",
            f"fix the row, {columns_advice(data)}, or read prompts alone with --format prompt",
        )
    more = [n for n in unused if not ABOUT.fullmatch(n) and not is_score(n, data.get(n))]
    return not_this("more than a prompt", more, data) if more else None


def whole(
    record: Record | Unusable, unused: tuple[str, ...], data: Data, format: str
) -> Record | Unusable:
    """Return a record, or Unusable with advice if the row holds more, or something else."""
    if isinstance(record, Record):
        return (more_than(record, unused, data, format) if unused else None) or record
    if record.code == "no_answer" and unused:
        return not_this(record.reason, unused, data)
    if record.reason.startswith(("'label' is", "'kto_tag' is")):
        unlabelled = {k: v for k, v in data.items() if k not in ("label", "kto_tag")}
        remedy = f"to learn from such answers all the same, {columns_advice(unlabelled)}"
        reason = f"{record.reason}; the row has {listed(data)}"
        return Unusable(record.code, reason, remedy)
    if record.code == "role" and not record.remedy:
        reason = f"{record.reason}; the row has {listed(data)}"
        return Unusable(record.code, reason, columns_advice(data))
    return record
