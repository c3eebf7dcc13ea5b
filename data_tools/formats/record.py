"""The record that every format is read into, and the words formats use for its parts."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

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


class Record(NamedTuple):
    """One example in our terms; which fields are set follows from `kind`.

    A named tuple, not a dataclass: it is made once a row, and a frozen dataclass costs four times
    as much to make.

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


def alias(data: Data, part: str) -> str:
    """The key this row uses for a part.

    Raises:
        Unusable: If it uses none; `missing`.
    """
    for name in ALIASES[part]:
        if name in data:
            return name
    raise Unusable("missing", f"no {part!r}: the row has {listed(data)}")


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
