"""The record that every format is read into, and what a format is."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from data_tools.reading import Row

Message: TypeAlias = dict[str, Any]
Text: TypeAlias = str | list[Message]
"""A prompt or an answer: plain text, or `{role, content}` messages."""
Data: TypeAlias = Mapping[str, Any]
Kind: TypeAlias = Literal["text", "sft", "preference", "unpaired", "prompt", "ranked"]

ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query"),
    "chosen": (
        "chosen",
        "selected",
        "response_chosen",
        "chosen_response",
        "preferred_output",
        "pos_resp",
        "completion_a",
        "response_j",
    ),
    "rejected": (
        "rejected",
        "reject",
        "response_rejected",
        "rejected_response",
        "non_preferred_output",
        "neg_resp",
        "completion_b",
        "response_k",
    ),
    "completion": ("completion", "response", "answer", "output"),
}
"""What real files call the parts of a record; the first name is ours."""

HARD = frozenset(
    {
        "malformed",
        "duplicate_key",
        "row_type",
        "unknown_format",
        "two_formats",
        "wrong_format",
        "wrong_kind",
        "wrong_type",
        "missing",
        "null",
        "role",
    }
)
"""Reasons that stop a conversion unless `--on-error drop`: the file is not what it seems.

All others are choices (a tie, a margin) or known defects of good sources (an empty answer): such
rows are dropped and counted either way.
"""


@dataclass(slots=True)  # made once a row; frozen it would take four times as long to make
class Record:
    """One example in our terms; which fields are set follows from `kind`.

    Attributes:
        kind: `text` sets text; `sft` prompt and completion, or messages; `preference` prompt,
            chosen, rejected; `unpaired` prompt, completion, label; `prompt` prompt; `ranked`
            prompt and answers, with scores or best first.
        margin: How much better chosen is, in the source's own scale; None where unknown.
        answers: Answers to one prompt.
        scores: One score an answer, higher is better; None if only the order is known.
        tools: Schemas of the tools that the row gives to the chat template.
        template_kwargs: Further variables of the chat template (`chat_template_kwargs`).
    """

    kind: Kind
    prompt: Text = ""
    chosen: Text = ""
    rejected: Text = ""
    completion: Text = ""
    messages: list[Message] | None = None
    text: str = ""
    label: bool | None = None
    margin: float | None = None
    answers: tuple[Text, ...] = ()
    scores: tuple[float, ...] | None = None
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] | None = None


class Unusable(Exception):
    """A row that cannot become a record: a short code to count by, and a sentence.

    Raised by adapters, which know nothing of files; the reader adds the place.
    """

    def __init__(self, code: str, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason, self.remedy = code, reason, remedy


Result: TypeAlias = Record | list[Record | Unusable]
Tags: TypeAlias = Mapping[str, str]
Gather: TypeAlias = Callable[[Iterable[Row]], Iterator[Row]]
TEXT_OR_TURNS = "text|turns"
TEMPLATE_INPUTS = ("tools", "chat_template_kwargs")
"""Columns that a chat template reads besides the turns."""
LISTS = frozenset({"list", "texts", "turns", "numbers", "lists"})


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One format: how to know it, and a pure function from a row to a record.

    Attributes:
        name: What `--format` calls it.
        needs: Keys that must stand in a row, with the kinds of value each may hold, joined by `|`:
            text, number, flag, object, list, texts, turns (objects), numbers, lists.
        read: Makes the record; raises Unusable for a row that cannot become one.
        when: A look into the values, where keys and kinds do not tell; makes the format win.
        aliased: The needed keys are parts, found under any of their aliases.
        strength: Of several that match, only the strongest count: 2 named formats, 1 plain
            shapes, 0 what nearly every row holds.
        gather: Joins rows that belong together (one answer a row, one message a row) before read.
        auto: Whether it may be detected; else it must be named.
    """

    name: str
    needs: Mapping[str, str]
    read: Callable[[Data], Result]
    when: Callable[[Data], bool] | None = None
    aliased: bool = False
    strength: int = 2
    gather: Gather | None = None
    auto: bool = True
    kinds: Mapping[str, frozenset[str]] = field(init=False)

    def __post_init__(self) -> None:
        kinds = {key: frozenset(kind.split("|")) for key, kind in self.needs.items()}
        object.__setattr__(self, "kinds", kinds)

    def keys_in(self, tags: Tags) -> frozenset[str] | None:
        """The keys of a row that this format is known by, or None where it is not this format."""
        found = set()
        for key, kinds in self.kinds.items():
            name = self._present(key, tags)
            if name is None or not fits(tags[name], kinds):
                return None
            found.add(name)
        return frozenset(found)

    def missing(self, tags: Tags) -> list[str]:
        """What stands between a row and this format, one phrase a key."""
        phrases = []
        for key, kinds in self.kinds.items():
            name = self._present(key, tags)
            if name is None:
                phrases.append(f"no {key!r}")
            elif not fits(tags[name], kinds):
                phrases.append(f"{name!r} is {tags[name]}, wanted {' or '.join(sorted(kinds))}")
        return phrases

    def lacks(self, data: Data) -> list[str]:
        """What stands between a row and this format, one phrase a key."""
        return self.missing({key: tag(value) for key, value in data.items()})

    def _present(self, key: str, tags: Tags) -> str | None:
        names = ALIASES[key] if self.aliased else (key,)
        return next((name for name in names if name in tags), None)


def tag(value: object) -> str:
    """The kind of a value as formats name it; an empty list may be a list of anything."""
    if isinstance(value, list):
        if not value:
            return "empty list"
        inner = {"text": "texts", "object": "turns", "number": "numbers"}
        return inner.get(tag(value[0]), "lists")
    names = {str: "text", dict: "object", bool: "flag", int: "number", float: "number"}
    return names.get(type(value), "null")


def fits(found: str, wanted: frozenset[str]) -> bool:
    """Whether a value of kind `found` may stand where `wanted` kinds are asked for."""
    if found in wanted:
        return True
    if found == "empty list":
        return not wanted.isdisjoint(LISTS)
    return found in LISTS and "list" in wanted


def alias(data: Data, part: str) -> str:
    """The key this row uses for a part.

    Raises:
        Unusable: If it uses none; `missing`.
    """
    for name in ALIASES[part]:
        if name in data:
            return name
    raise Unusable("missing", f"no {part!r}: the row has {listed(data)}")


def with_template_inputs(record: Record, data: Data) -> Record:
    """A record with the `tools` and `chat_template_kwargs` of its row, each also as JSON text.

    Raises:
        Unusable: If one of them is of another type; `wrong_type`.
    """
    tools, settings = (_json_value(data, key) for key in TEMPLATE_INPUTS)
    if tools is not None:
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise Unusable(
                "wrong_type", f"'tools' is {shown(tools)}, wanted a list of tool schemas"
            )
        record = replace(record, tools=tools)
    if settings is not None:
        record = replace(record, template_kwargs=fields(settings, "chat_template_kwargs"))
    return record


def _json_value(data: Data, key: str) -> Any:
    """A value that some files write as JSON text; None if it is absent, null or empty text."""
    value = data.get(key)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        return value


def text(data: Data, key: str, *, default: str | None = None) -> str:
    """A string field; `default` stands in for a field that is absent or null.

    Raises:
        Unusable: If it is absent, null or no string; `missing`, `null` or `wrong_type`.
    """
    value = data.get(key)
    if type(value) is str:
        return value
    if value is None and default is not None:
        return default
    if key not in data:
        raise Unusable("missing", f"no {key!r}: the row has {listed(data)}")
    raise Unusable(
        "null" if value is None else "wrong_type", f"{key!r} is {shown(value)}, wanted text"
    )


def number(data: Data, key: str) -> float:
    """A number, also where a source writes it as a string (`"7.5"`).

    Raises:
        Unusable: If it is none: `missing`, `null` or `wrong_type`.
    """
    value = data.get(key)
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            result = float(value)
            if result == result and abs(result) != float("inf"):
                return result
    except (ValueError, OverflowError):
        pass
    if key not in data:
        raise Unusable("missing", f"no {key!r}: the row has {listed(data)}")
    raise Unusable(
        "null" if value is None else "wrong_type", f"{key!r} is {shown(value)}, wanted a number"
    )


def members(data: Data, key: str) -> list[Any]:
    """A list field.

    Raises:
        Unusable: If it is none: `missing`, `null` or `wrong_type`.
    """
    value = data.get(key)
    if isinstance(value, list):
        return value
    if key not in data:
        raise Unusable("missing", f"no {key!r}: the row has {listed(data)}")
    raise Unusable(
        "null" if value is None else "wrong_type", f"{key!r} is {shown(value)}, wanted a list"
    )


def fields(value: Any, name: str) -> dict[str, Any]:
    """An object nested in a row.

    Raises:
        Unusable: If it is none; `wrong_type`.
    """
    if isinstance(value, dict):
        return value
    raise Unusable("wrong_type", f"{name!r} is {shown(value)}, wanted an object")


def shown(value: object) -> str:
    """A value as error messages show it: its kind, and the value where it is short."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"the string {value[:20]!r}"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {listed(value)}"
    return f"the number {value}"[:40]


def listed(data: Data) -> str:
    """The keys of a row for a message, cut where there are many."""
    keys = [repr(str(key)[:30]) for key in data]
    return (
        ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") or "no keys"
    )
