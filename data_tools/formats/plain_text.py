"""Text of prompts and answers: flattened for comparison, normalised, hashed."""

import functools
import re
import unicodedata
from typing import Any

import xxhash

from data_tools.formats.record import Record, Text

INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"
"""Zero-width and formatting characters that a reader does not see."""
_DROP_INVISIBLE = {ord(c): None for c in INVISIBLE}
_VISIBLE = re.compile(rf"[^\s{INVISIBLE}]")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
SENTINELS = frozenset(
    {
        "无输入",
        "没有输入",
        "无",
        "暂无输入",
        "no input",
        "noinput",
        "<noinput>",
        "<no input>",
        "nan",
        "n/a",
        "none",
        "not applicable",
        "no input required",
        "no input needed",
        "no input necessary",
    }
)
"""What annotators wrote where `input` is empty, folded, without a full stop."""


def plain(value: str | list[dict[str, Any]]) -> str:
    """A prompt or an answer as one string; turns keep their roles, a lone turn its bare text."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in value)


def contents(value: str | list[dict[str, Any]]) -> list[str]:
    """The texts of a prompt or an answer, one a turn."""
    return [value] if isinstance(value, str) else [str(turn["content"]) for turn in value]


def is_blank(value: str | list[dict[str, Any]]) -> bool:
    """Whether nothing can be seen of a text, or of the last of some turns."""
    if isinstance(value, str):
        return not value[:1].isalnum() and _VISIBLE.search(value) is None
    return not value or (is_blank(str(value[-1]["content"])) and not value[-1].get("tool_calls"))


def is_sentinel(value: object) -> bool:
    """Whether an alpaca `input` only says that there is none."""
    if not isinstance(value, str):
        return False
    return value.strip().rstrip("。.!！").strip().casefold() in SENTINELS


@functools.lru_cache(maxsize=16)  # several checks of one record ask for the same texts
def normalised(value: str) -> str:
    """A key for comparison only: NFKC, no invisible characters, single spaces, case folded."""
    folded = value if value.isascii() else unicodedata.normalize("NFKC", value)
    if _INVISIBLE.search(folded):
        folded = folded.translate(_DROP_INVISIBLE)
    return " ".join(folded.casefold().split())


def digest(value: str) -> str:
    """The 128-bit xxh3 of a text, in hex."""
    return xxhash.xxh3_128_hexdigest(value.encode("utf-8", "surrogatepass"))


def prompt_of(record: Record) -> Text:
    """What is asked: the prompt, or all turns but the answers, or the text."""
    if record.kind == "text":
        return record.text
    if record.messages is None:
        return record.prompt
    return [turn for turn in record.messages if turn["role"] != "assistant"]


def spoken_parts(record: Record) -> list[str]:
    """Every text of a record: what is asked first, then the answers."""
    answers = [record.chosen, record.rejected, record.completion, *record.answers]
    spoken = [turn for turn in record.messages or [] if turn["role"] == "assistant"]
    prompt = plain(prompt_of(record))
    return [prompt, *(plain(answer) for answer in answers if answer), *contents(spoken)]


def group_id(record: Record) -> str:
    """What rows on one prompt share: the hash of the prompt as it is written."""
    if record.messages is not None:
        asked = [turn for turn in record.messages if turn["role"] != "assistant"]
        return digest(plain(asked))
    return digest(plain(record.prompt))


def prompt_key(record: Record) -> str:
    """What two records on one prompt share, whatever its spaces, width and case."""
    if record.kind == "text":
        return digest(normalised(record.text))
    if record.messages is not None:
        asked = [turn for turn in record.messages if turn["role"] != "assistant"]
        return digest(normalised(plain(asked)))
    return digest(normalised(plain(record.prompt)))


def answer_key(answer: str) -> str:
    """What two equal answers share."""
    return digest(normalised(answer))
