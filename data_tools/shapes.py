"""Any source as rows in the plain shapes that TRL trains on; what a training stage calls."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from alignment.errors import DataError
from data_tools.formats.detect import BY_NAME, Adapter, Record, Unusable, nearest
from data_tools.formats.examples import Example, examples
from data_tools.formats.pairing import Pairing, pairs_of
from data_tools.formats.record import ALIASES, Kind, Text, listed
from data_tools.formats.turns import as_messages
from data_tools.reading.files import OnError
from data_tools.reading.rows import Fault, RowError

Json: TypeAlias = dict[str, Any]


class Shape(NamedTuple):
    """What a stage asks for.

    Attributes:
        title: What messages call it.
        kinds: The kinds of record that can serve it.
        pattern: The plain format whose missing keys a message names.
        make: The row in TRL's shape, from a served record; as messages where asked.
    """

    title: str
    kinds: tuple[Kind, ...]
    pattern: str
    make: Callable[[Record, Json, bool], Json]


KIND_TITLES: dict[Kind, str] = {
    "text": "plain text",
    "sft": "SFT data",
    "preference": "preference pairs",
    "ranked": "ranked answers",
    "unpaired": "unpaired feedback (KTO)",
    "prompt": "prompts without answers",
}


def load_records(
    path: str | Path, *, kind: str, format: str | None = None, on_error: OnError | None = None
) -> Iterator[Json]:
    """Rows of a file, a folder or any source format in one of TRL's plain shapes.

    `text` gives `text`; `sft` gives `prompt` and `completion`, or `messages`; `preference` gives
    `prompt`, `chosen`, `rejected`; `prompt` gives `prompt` and the other columns of the source.
    One source gives one shape: where any row is a conversation, all are messages. A stronger kind
    serves a weaker one: pairs serve `sft` by their chosen side, and everything serves `prompt`.

    Args:
        path: A data file, or a folder of one kind of file.
        kind: text, sft, preference or prompt.
        format: A name of data_tools.formats; without it every row's format is detected.
        on_error: Told of every row that cannot be used; without it the first one raises.

    Raises:
        DataError: At the first bad row, or where the source holds no row at all.
    """
    shape = SHAPES[kind]
    turns = _any_turns(path, shape, format)
    before: Adapter | None = None
    count = 0
    for example in examples(path, format=format, on_error=on_error):
        count += 1
        try:
            record = _serving(example, shape, before)
        except Unusable as why:
            error = RowError.of(example.row, Fault(why.reason, why.remedy, code=why.code))
            if on_error is None:
                raise error from None
            on_error(error)
            continue
        before = example.adapter
        yield shape.make(record, example.row.data, turns)
    if not count and on_error is None:
        raise DataError(f"{path}: no rows", "wanted at least one")


def _any_turns(path: str | Path, shape: Shape, format: str | None) -> bool:
    """Whether any row that will be used is a conversation; stops at the first."""
    for example in examples(path, format=format, on_error=lambda _: None):
        record = example.record
        if (
            isinstance(record, Record)
            and record.kind in shape.kinds
            and (record.messages is not None or not isinstance(record.prompt, str))
        ):
            return True
    return False


def _serving(example: Example, shape: Shape, before: Adapter | None) -> Record:
    """The record of an example as a shape needs it.

    Raises:
        Unusable: If it is none, or of a kind that cannot serve this shape.
    """
    record = example.record
    if isinstance(record, Unusable):
        if record.code in ("unknown_format", "wrong_format"):
            raise _unlike(example, shape, before, record)
        raise record
    if record.kind not in shape.kinds:
        raise _unlike(example, shape, before, record)
    if record.kind != "ranked" or shape.pattern == "prompt":
        return record
    pairs, dropped = pairs_of(record, Pairing())
    if not pairs:
        raise Unusable(dropped[0].code, dropped[0].reason)
    return pairs[0]


def _unlike(
    example: Example, shape: Shape, before: Adapter | None, found: Record | Unusable
) -> Unusable:
    """Say what a row lacks, or what other kind of data it looks like."""
    data = example.row.data
    if example.adapter is None or example.adapter.name == "prompt":
        # a prompt is what is left of a row whose answer cannot be used
        _, near, _ = nearest(data)
        pattern = BY_NAME["pair"].lacks(data) if _halves(data) and shape.pattern == "pair" else []
        lacks = (before.lacks(data) if before else []) or pattern
        lacks = lacks or [phrase for phrase in near if not phrase.startswith("no ")]
        if lacks:
            return Unusable("missing", f"{', '.join(lacks)}; the row has {listed(data)}")
    if isinstance(found, Unusable):
        return found
    looks = KIND_TITLES[found.kind]
    name = f", format {example.adapter.name!r}" if example.adapter else ""
    return Unusable(
        "wrong_kind",
        f"this looks like {looks}{name}, wanted {shape.title}",
        f"the row has {listed(data)}",
    )


def _halves(data: Json) -> bool:
    """Whether a row was meant as a pair: it has one of the sides."""
    return any(name in data for part in ("chosen", "rejected") for name in ALIASES[part])


def _text(record: Record, _: Json, __: bool) -> Json:
    return {"text": record.text}


def _sft(record: Record, _: Json, turns: bool) -> Json:
    if record.messages is not None:
        return {"messages": record.messages}
    answer = record.chosen if record.kind == "preference" else record.completion
    if not turns:
        return {"prompt": record.prompt, "completion": answer}
    return {"messages": _turns(record.prompt, "user") + _turns(answer, "assistant")}


def _preference(record: Record, _: Json, turns: bool) -> Json:
    parts = {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
    if not turns:
        return parts
    return {
        name: _turns(value, "user" if name == "prompt" else "assistant")
        for name, value in parts.items()
    }


def _prompt(record: Record, data: Json, turns: bool) -> Json:
    prompt = record.prompt
    if record.messages is not None:
        last = max(i for i, turn in enumerate(record.messages) if turn["role"] == "assistant")
        prompt = record.messages[:last]
    return {**data, "prompt": _turns(prompt, "user") if turns else prompt}


def _turns(value: Text, role: str) -> list[dict[str, Any]]:
    return as_messages(value, role)


SHAPES: dict[str, Shape] = {
    "text": Shape("plain text ('text')", ("text",), "text", _text),
    "sft": Shape(
        "SFT data ('messages', or 'prompt' and 'completion')",
        ("sft", "preference", "ranked"),
        "prompt-completion",
        _sft,
    ),
    "preference": Shape(
        "preference pairs ('prompt', 'chosen', 'rejected')",
        ("preference", "ranked"),
        "pair",
        _preference,
    ),
    "prompt": Shape(
        "prompts ('prompt')",
        ("prompt", "sft", "preference", "ranked", "unpaired"),
        "prompt",
        _prompt,
    ),
}
