"""Accounts for the columns of a row: which are read, which hold text that nothing reads.

A column that holds text and is not read is named and counted, and decides what a row is not: a row
with more texts than a bare prompt or one answer has is no bare prompt and no single answer.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from data_tools.formats.advice import (
    ABOUT,
    columns_advice,
    hint,
    is_label,
    is_turn,
    left_out_of_question,
    not_this,
)
from data_tools.formats.context import refuse_media, with_context
from data_tools.formats.record import (
    ALIASES,
    CONTEXT,
    Adapter,
    Data,
    Record,
    Result,
    Unusable,
    is_filled,
    listed,
    shown,
)
from data_tools.formats.turns import TURN_KEYS

ANSWERS = ("chosen", "rejected", "completion")
BOOKKEEPING = frozenset({"source", "source_row", "group_id"})
"""Columns that `align data convert` adds, always all of them."""
LONG = 30
"""Characters from which a text inside another one is there for a reason."""


class Reading(NamedTuple):
    """What becomes of the columns of a row with these names.

    Attributes:
        context: Columns of CONTEXT that the format itself does not read.
        rest: Columns that nothing reads.
    """

    context: tuple[str, ...]
    rest: tuple[str, ...]


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
    return Reading(tuple(context), rest)


def read_row(adapter: Adapter, data: Data) -> Result:
    """Read a row with its format, and with the columns that mean the same in every format.

    Raises:
        Unusable: If the row cannot become a record.
    """
    refuse_media(data)
    result = adapter.read(data)
    names = reading(adapter, tuple(data)).context
    if not names:
        return result
    if isinstance(result, Record):
        return with_context(result, data, names)
    return [with_context(one, data, names) if isinstance(one, Record) else one for one in result]


def unread(adapter: Adapter, data: Data, records: Iterable[Record]) -> tuple[str, ...]:
    """Return the columns with text or a label, and the keys of turns, that are in no record.

    A column that repeats what a record holds is not lost.
    """
    rest = reading(adapter, tuple(data)).rest
    found = [name for name in rest if holds_text(data[name])]
    if found:
        said = [text for record in records for text in _texts(record)]
        found = [name for name in found if not _is_said(data[name], said)]
    labels = [name for name in rest if name not in found and is_label(name, data[name])]
    return (*found, *labels, *_keys_of_turns(data))


def _is_said(value: object, said: list[str]) -> bool:
    """Whether every text in a value is in a record already."""
    texts = (value,) if isinstance(value, str) else texts_in(value)
    for text in map(str.strip, texts):
        for one in said:
            if text in one and (len(text) >= LONG or text == one.strip()):
                break
        else:
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


def _keys_of_turns(data: Data) -> Iterable[str]:
    """Return the keys of turns that hold text which nothing reads, as `messages[].key`."""
    found: dict[str, None] = {}
    for name, value in data.items():
        if type(value) is not list and type(value) is not dict:
            continue
        for turn in value if type(value) is list else (value,):
            # most turns have a role and a text, and nothing else
            if type(turn) is dict and len(turn) > 2 and is_turn(turn):
                keys = [k for k, v in turn.items() if k not in TURN_KEYS and holds_text(v)]
                found.update(dict.fromkeys(f"{name}[].{key}" for key in keys))
    return found


def more_than(record: Record, unused: Iterable[str], data: Data) -> Unusable | None:
    """Return why a row is more than the one answer or the text that its record holds.

    Columns about a row are only counted; a second side of a pair, or an answer to a plain text, is
    what the file is for.
    """
    parts = {"text": ANSWERS, "sft": ("rejected",), "unpaired": ("rejected",)}.get(record.kind, ())
    named = [name for name in unused if "[]" not in name]
    more = [name for name in named if hint(name) in parts]
    if record.kind == "sft":
        more += [name for name in named if name in data and is_label(name, data[name])]
    if not more:
        return None if record.kind == "text" else left_out_of_question(named, data)
    held = {"text": "text", "sft": "one answer"}.get(record.kind, "labelled answers")
    return not_this(f"more than {held}", more, data)


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
    more = [name for name in unused if not ABOUT.fullmatch(name)]
    return not_this("more than a prompt", more, data) if more else None


def whole(record: Record | Unusable, unused: tuple[str, ...], data: Data) -> Record | Unusable:
    """Return a record, or Unusable with advice if the row holds more, or something else."""
    if isinstance(record, Record):
        return (more_than(record, unused, data) if unused else None) or record
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
