"""Defines the record that every format is read into, and what a format is."""

import ast
import json
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
    "messages": ("messages", "conversations", "conversation"),
    "conversations": ("conversations", "conversation"),
}
"""The names that files use for the parts of a record; the first one is ours."""

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
        "not_text",
        "not_used",
        "two_systems",
        "stringified_messages",
    }
)
"""Codes that stop a conversion unless `--on-error drop`: the file is not what it seems to be.

Rows with any other code are dropped and counted in both cases: it is a choice (a tie, a margin) or
a known defect of good sources (an empty answer).
"""


# One is made for each row. Frozen, it would take four times as long; a named tuple takes as long to
# make, but twice as long to read a field of.
@dataclass(slots=True)
class Record:
    """One example; `kind` decides which fields are set.

    Attributes:
        kind: `text` sets text; `sft` prompt and completion, or messages; `preference` prompt,
            chosen, rejected; `unpaired` prompt, completion, label; `prompt` prompt; `ranked`
            prompt and answers, with scores or best first.
        margin: How much better chosen is, in the scale of the source; None if it is unknown.
        answers: Answers to one prompt.
        scores: One score per answer, higher is better; None if only the order is known.
        tools: The schemas of tools that the row gives to the chat template.
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
    """A row that cannot become a record.

    Adapters raise it without a place, since they do not know the file; the reader adds it.

    Attributes:
        code: A short stable word by which such rows are counted.
        reason: One sentence.
        remedy: What the user can do, or nothing.
    """

    def __init__(self, code: str, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason, self.remedy = code, reason, remedy


Result: TypeAlias = Record | list[Record | Unusable]
Tags: TypeAlias = Mapping[str, str]
Gather: TypeAlias = Callable[[Iterable[Row]], Iterator[Row]]
TEXT_OR_TURNS = "text|turns"
TEMPLATE_INPUTS = ("tools", "chat_template_kwargs")
"""Columns that a chat template reads in addition to the turns."""
SYSTEM = ("system", "system_prompt", "system_message")
REASONING = ("reasoning_content", "thinking")
READ_INTO_PROMPT = ("input", "context")
"""Columns that are joined into the prompt: alpaca's name, and that of Dolly and SQuAD."""
CONTEXT = (*SYSTEM, "history", *READ_INTO_PROMPT, *REASONING, *TEMPLATE_INPUTS)
"""Columns that mean the same in every format."""
TAGS: dict[type, str] = {
    str: "text",
    dict: "object",
    bool: "flag",
    int: "number",
    float: "number",
}
TRUE, FALSE = frozenset({"true", "1", "1.0", "yes"}), frozenset({"false", "0", "0.0", "no"})
LISTS = frozenset({"list", "texts", "turns", "numbers", "lists"})


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One format: how it is recognised, and a pure function from a row to a record.

    Attributes:
        name: Its name for `--format`.
        needs: The keys that a row must have, each with the kinds of value it may have, joined by
            `|`: text, number, flag, object, list, texts, turns (objects), numbers, lists.
        read: Makes the record; raises Unusable for a row that cannot become one.
        when: Looks at the values if keys and kinds do not decide; True makes the format win.
        aliased: Whether the needed keys are parts that may have any of their aliases.
        strength: If several formats match, only the strongest count: 2 for those of a named data
            set, 1 for plain shapes, 0 for what nearly every row has.
        gather: Joins rows that belong together (one answer or one message per row) before `read`.
        auto: Whether it may be detected; else it must be named.
        reads: Columns, and keys inside columns (`completions[].rank`), that it reads if they are
            there.
    """

    name: str
    needs: Mapping[str, str]
    read: Callable[[Data], Result]
    when: Callable[[Data], bool] | None = None
    aliased: bool = False
    strength: int = 2
    gather: Gather | None = None
    auto: bool = True
    reads: tuple[str, ...] = ()

    def keys_in(self, tags: Tags) -> frozenset[str] | None:
        """Return the keys by which a row is recognised as this format, or None if it is not."""
        found = set()
        for key, wanted in self.needs.items():
            name = self._present(key, tags)
            if name is None or not fits(tags[name], wanted):
                return None
            found.add(name)
        return frozenset(found)

    def missing(self, tags: Tags) -> list[str]:
        """Return why a row is not in this format, one phrase per key."""
        phrases = []
        for key, wanted in self.needs.items():
            name = self._present(key, tags)
            if name is None:
                phrases.append(f"no {key!r}")
            elif not fits(tags[name], wanted):
                kinds = " or ".join(sorted(wanted.split("|")))
                phrases.append(f"{name!r} is {tags[name]}, wanted {kinds}")
        return phrases

    def lacks(self, data: Data) -> list[str]:
        """Return why a row is not in this format, one phrase per key."""
        return self.missing({key: tag(value) for key, value in data.items()})

    def columns(self, names: Collection[str]) -> frozenset[str]:
        """Return which of the columns of a row this format reads."""
        found = (self._present(key, names) for key in self.needs)
        return frozenset(name for name in (*found, *self.reads) if name and name in names)

    def _present(self, key: str, tags: Container[str]) -> str | None:
        names = ALIASES.get(key, (key,)) if self.aliased else (key,)
        return next((name for name in names if name in tags), None)


def tag(value: object) -> str:
    """Return the kind of a value as `Adapter.needs` names it."""
    if isinstance(value, list):
        if not value:
            return "empty list"
        inner = {"text": "texts", "object": "turns", "number": "numbers"}
        # not asked about a list in a list, which may go on for a thousand levels
        return "lists" if isinstance(value[0], list) else inner.get(tag(value[0]), "lists")
    return TAGS.get(type(value), "null")


def fits(found: str, wanted: str) -> bool:
    """Whether a value of kind `found` is one of the kinds `wanted`, which are joined by `|`."""
    kinds = wanted.split("|")
    if found in kinds:
        return True
    if found == "empty list":  # it may be a list of anything
        return not LISTS.isdisjoint(kinds)
    return found in LISTS and "list" in kinds


def alias(data: Data, part: str) -> str:
    """Return the key that a row uses for a part.

    Raises:
        Unusable: With the code `missing` if it uses none.
    """
    for name in ALIASES[part]:
        if name in data:
            return name
    raise Unusable("missing", f"no {part!r}: the row has {listed(data)}")


def with_template_inputs(record: Record, data: Data) -> Record:
    """Add the `tools` and `chat_template_kwargs` of a row, also given as JSON text, to its record.

    Raises:
        Unusable: With the code `wrong_type` if one of them is of another type.
    """
    tools, settings = (json_value(data.get(key)) for key in TEMPLATE_INPUTS)
    if tools is not None:
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise Unusable(
                "wrong_type", f"'tools' is {shown(tools)}, wanted a list of tool schemas"
            )
        record = replace(record, tools=tools)
    if settings is not None:
        record = replace(record, template_kwargs=fields(settings, "chat_template_kwargs"))
    return record


def json_value(value: Any) -> Any:
    """Return a value that a table may have as text, JSON or Python's; None if it is empty."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def is_filled(value: object) -> bool:
    """Whether a column of a row holds anything; empty JSON in a text is nothing."""
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "{}", "null")
    return value is not None and value not in ([], {}, b"")


def text(data: Data, key: str, *, default: str | None = None) -> str:
    """Return a string field, or `default` if it is absent or null.

    Raises:
        Unusable: With the code `missing`, `null` or `wrong_type`.
    """
    value = data.get(key)
    if type(value) is str:
        return value
    if value is None and default is not None:
        return default
    raise _not_a(data, key, "text")


def number(data: Data, key: str) -> float:
    """Return a number, also one that a source writes as a string (`"7.5"`).

    Raises:
        Unusable: With the code `missing`, `null` or `wrong_type`.
    """
    value = data.get(key)
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            result = float(value)
            # NaN and infinity would make comparisons of scores meaningless
            if result == result and abs(result) != float("inf"):
                return result
    except (ValueError, OverflowError):
        pass
    raise _not_a(data, key, "a number")


def flag(data: Data, key: str) -> bool:
    """Return a label: true or false, 1 or 0, or their names as text.

    Raises:
        Unusable: With the code `missing`, `null` or `wrong_type`.
    """
    value = data.get(key)
    name = str(value).strip().lower()
    if name in TRUE or name in FALSE:
        return name in TRUE
    raise _not_a(data, key, "true or false")


def members(data: Data, key: str) -> list[Any]:
    """Return a list field.

    Raises:
        Unusable: With the code `missing`, `null` or `wrong_type`.
    """
    value = data.get(key)
    if isinstance(value, list):
        return value
    raise _not_a(data, key, "a list")


def _not_a(data: Data, key: str, wanted: str) -> Unusable:
    """Say that a field is absent or has another type than the wanted one."""
    if key not in data:
        return Unusable("missing", f"no {key!r}: the row has {listed(data)}")
    value = data[key]
    code = "null" if value is None else "wrong_type"
    return Unusable(code, f"{key!r} is {shown(value)}, wanted {wanted}")


def fields(value: Any, name: str) -> dict[str, Any]:
    """Return an object that is nested in a row.

    Raises:
        Unusable: With the code `wrong_type` if it is something else.
    """
    if isinstance(value, dict):
        return value
    raise Unusable("wrong_type", f"{name!r} is {shown(value)}, wanted an object")


def shown(value: object) -> str:
    """Describe a value in a message: its kind, and the value itself if it is short."""
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
    if isinstance(value, int | float):
        return f"the number {value}"[:40]
    return f"a value of the type {type(value).__name__}"  # bytes or a date, which tables have


def listed(data: Data) -> str:
    """List the keys of a row in a message; only the first if there are many."""
    keys = [repr(str(key)[:30]) for key in data]
    return (
        ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") or "no keys"
    )
