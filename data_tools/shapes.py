"""Any source as rows in the plain shapes that TRL trains on; what a training stage calls."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from alignment.errors import DataError
from data_tools.formats import (
    ALIASES,
    BY_NAME,
    Adapter,
    Columns,
    Example,
    Kind,
    Located,
    Pairing,
    ReadOptions,
    Record,
    Unusable,
    before_last_answer,
    columns_advice,
    examples,
    listed,
    nearest,
    one_split,
    pairs_of,
    read_options,
    row_error,
)
from data_tools.reading import OnError, Row, Watch, fingerprint, other_encoding

Json: TypeAlias = dict[str, Any]


class Shape(NamedTuple):
    """What a stage asks for.

    Attributes:
        title: What messages call it.
        kinds: The kinds of record that can serve it.
        pattern: The plain format whose missing keys a message names.
        records: The records of this shape that a serving record gives.
        row: A record of this shape in TRL's columns, with the columns of its source.
    """

    title: str
    kinds: tuple[Kind, ...]
    pattern: str
    records: Callable[[Record], list[Record]]
    row: Callable[[Record, Json], Json]


class Served(NamedTuple):
    """A record of the kind that a stage asked for, and the row that it comes from.

    Attributes:
        record: The record.
        row: Its row.
        unused: Columns of the row with text that no record of it holds. Of several records of a
            row the first one has them.
    """

    record: Record
    row: Row
    unused: tuple[str, ...] = ()


KIND_TITLES: dict[Kind, str] = {
    "text": "plain text",
    "sft": "SFT data",
    "preference": "preference pairs",
    "ranked": "ranked answers",
    "unpaired": "unpaired feedback (KTO)",
    "prompt": "prompts without answers",
}


#: The part without which a row is not of a pattern, as an option to name columns has it.
WANTED = {
    "text": "text",
    "prompt-completion": "completion",
    "pair": "rejected",
    "unpaired": "label",
    "prompt": "prompt",
}


def serve(
    path: str | Path,
    *,
    kind: str,
    format: str | None = None,
    encoding: str | None = None,
    columns: Columns | None = None,
    on_error: OnError | None = None,
    watch: Watch | None = None,
) -> Iterator[Served]:
    """Yield the records of a file, a folder or any source format as one kind of record.

    A stronger kind serves a weaker one: a pair serves `sft` by its chosen side and `unpaired` by
    both sides, and everything serves `prompt`. What a row becomes never depends on other rows.

    Args:
        path: A data file, or a folder of one kind of file.
        kind: text, sft, preference, unpaired or prompt.
        format: A name of data_tools.formats; without it the format of every row is detected.
        encoding: The encoding of text files; without it that of each is detected.
        columns: Which columns hold which parts; None: those that the formats know.
        on_error: Receives every row that cannot be used; without it the first one raises.
        watch: Receives what is read, for progress.

    Raises:
        DataError: At the first bad row, or if the source holds no row at all.
    """
    shape = SHAPES[kind]
    before: Adapter | None = None
    count = 0
    for example in examples(
        path, format=format, encoding=encoding, columns=columns, on_error=on_error, watch=watch
    ):
        count += 1
        try:
            record = _serving(example, shape, before)
        except Unusable as why:
            error = row_error(example.row, why)
            if on_error is None:
                raise error from None
            on_error(error)
            continue
        before = example.adapter
        unused = _unused(example, record, kind)
        for one in shape.records(record):
            yield Served(one, example.row, unused)
            unused = ()
    if not count and on_error is None:
        raise DataError(f"{path}: no rows", "wanted at least one")


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of some sources, and how their rows are read."""

    files: list[Located]
    read: ReadOptions

    def served(self, kind: str) -> Iterator[Served]:
        """Yield the records of all files as `serve` does."""
        for one in self.files:
            yield from serve(one.file, kind=kind, **one.options(self.read))

    def encodings(self) -> dict[str, str]:
        """Return the encodings of files that are not UTF-8."""
        found = {
            str(one.file): other_encoding(one.file, self.read["encoding"]) for one in self.files
        }
        return {file: name for file, name in found.items() if name}

    def contents(self) -> list[dict[str, Any]]:
        """Return the path of each file and what names its content, and the columns of a list."""
        return [
            {"path": str(one.file), **fingerprint(one.file), **_entry(one.columns)}
            for one in self.files
        ]

    def digest(self) -> str:
        """Return the sha256 of the only file as it is, or of what names the content of all."""
        found = self.contents()
        if len(found) == 1 and found[0].keys() == {"path", "sha256", "bytes"}:
            return str(found[0]["sha256"])
        content = [{key: value for key, value in one.items() if key != "path"} for one in found]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _entry(columns: Columns | None) -> Json:
    if columns is None:
        return {}
    return {"columns": {"parts": columns.parts, "roles": columns.roles}}


def named_sources(
    sources: Iterable[str | Path], format: str | None, columns: str | None, encoding: str | None
) -> Sources:
    """Return the files of sources, read as the options of a command say.

    Raises:
        ConfigError: If the columns cannot be parsed, or a list has no such data set.
        DataError: If there is no such file, or a source has several splits.
    """
    read = read_options(format, columns, encoding)
    return Sources([one for source in sources for one in one_split(source, read["columns"])], read)


def load_records(
    path: str | Path, *, kind: str, format: str | None = None, on_error: OnError | None = None
) -> Iterator[Json]:
    """Yield what `serve` yields as rows in TRL's plain columns.

    `text` gives `text`; `sft` gives `prompt` and `completion`, or `messages`; `preference` gives
    `prompt`, `chosen`, `rejected`; `unpaired` gives `prompt`, `completion`, `label`; `prompt` gives
    `prompt` and the other columns of the source.

    Raises:
        DataError: At the first bad row, or if the source holds no row at all.
    """
    shape = SHAPES[kind]
    for record, row, _ in serve(path, kind=kind, format=format, on_error=on_error):
        yield shape.row(record, row.data)


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


def _unused(example: Example, record: Record, kind: str) -> tuple[str, ...]:
    """The columns with text that is not learned from; a reward function gets all of them."""
    if kind == "prompt":
        return ()
    if kind == "sft" and record.kind == "preference":
        names = [name for name in ALIASES["rejected"] if name in example.row.data]
        return (*example.unused, *(names or ["rejected"])[:1])
    return example.unused


def _unlike(
    example: Example, shape: Shape, before: Adapter | None, found: Record | Unusable
) -> Unusable:
    """Say what a row lacks, or what other kind of data it looks like."""
    data = example.row.data
    if example.more is not None and example.more.code == "unknown_format":
        return example.more
    if example.adapter is None or example.adapter.name == "prompt":
        # a prompt is what is left of a row whose answer cannot be used
        _, near, _ = nearest(data)
        pattern = BY_NAME["pair"].lacks(data) if _halves(data) and shape.pattern == "pair" else []
        lacks = (before.lacks(data) if before else []) or pattern
        lacks = lacks or [phrase for phrase in near if not phrase.startswith("no ")]
        if lacks:
            advice = columns_advice(data, ranked=shape.pattern == "pair")
            # only what would give this shape
            remedy = advice if f"{WANTED[shape.pattern]}=" in advice else ""
            return Unusable("missing", f"{', '.join(lacks)}; the row has {listed(data)}", remedy)
    if isinstance(found, Unusable):
        if shape.pattern == "text":
            remedy = columns_advice(data, text=True) or found.remedy
            return Unusable(found.code, found.reason, remedy)
        return found
    if example.more is not None:
        return example.more
    looks = KIND_TITLES[found.kind]
    name = f", format {example.adapter.name!r}" if example.adapter else ""
    remedy = f"the row has {listed(data)}"
    if found.kind == "text":
        remedy = "plain text is what `align pt` learns from"
        if shape.pattern == "prompt":
            remedy = "if each text is a prompt, --columns prompt=text"
    return Unusable("wrong_kind", f"this looks like {looks}{name}, wanted {shape.title}", remedy)


def _halves(data: Json) -> bool:
    """Whether a row was meant as a pair: it has one of the sides."""
    return any(name in data for part in ("chosen", "rejected") for name in ALIASES[part])


def _itself(record: Record) -> list[Record]:
    return [record]


def _supervised(record: Record) -> list[Record]:
    if record.kind == "sft":
        return [record]
    return [replace(record, kind="sft", completion=record.chosen, chosen="", rejected="")]


def _unpaired(record: Record) -> list[Record]:
    if record.kind == "unpaired":
        return [record]
    bare = replace(record, kind="unpaired", chosen="", rejected="")
    return [
        replace(bare, completion=record.chosen, label=True),
        replace(bare, completion=record.rejected, label=False),
    ]


def _prompts(record: Record) -> list[Record]:
    prompt = before_last_answer(record)
    return [Record("prompt", prompt, tools=record.tools, template_kwargs=record.template_kwargs)]


def _text_row(record: Record, _: Json) -> Json:
    return {"text": record.text}


def _supervised_row(record: Record, _: Json) -> Json:
    if record.messages is not None:
        return {"messages": record.messages}
    return {"prompt": record.prompt, "completion": record.completion}


def _preference_row(record: Record, _: Json) -> Json:
    return {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}


def _unpaired_row(record: Record, _: Json) -> Json:
    return {"prompt": record.prompt, "completion": record.completion, "label": record.label}


def _prompt_row(record: Record, data: Json) -> Json:
    return {**data, "prompt": record.prompt}


SHAPES: dict[str, Shape] = {
    "text": Shape("plain text ('text')", ("text",), "text", _itself, _text_row),
    "sft": Shape(
        "SFT data ('messages', or 'prompt' and 'completion')",
        ("sft", "preference", "ranked"),
        "prompt-completion",
        _supervised,
        _supervised_row,
    ),
    "preference": Shape(
        "preference pairs ('prompt', 'chosen', 'rejected')",
        ("preference", "ranked"),
        "pair",
        _itself,
        _preference_row,
    ),
    "unpaired": Shape(
        "answers with labels ('prompt', 'completion', 'label')",
        ("unpaired", "preference", "ranked"),
        "unpaired",
        _unpaired,
        _unpaired_row,
    ),
    "prompt": Shape(
        "prompts ('prompt')",
        ("prompt", "sft", "preference", "ranked", "unpaired"),
        "prompt",
        _prompts,
        _prompt_row,
    ),
}
