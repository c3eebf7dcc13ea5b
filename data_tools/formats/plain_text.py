"""Flattens, normalises and hashes the texts of records, so that they can be compared."""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from data_tools.formats.record import Record, Text

INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"
"""Zero-width and formatting characters, which a reader does not see."""
_DROP_INVISIBLE = {ord(c): None for c in INVISIBLE}
_VISIBLE = re.compile(rf"[^\s{INVISIBLE}]")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
SENTINELS = frozenset(
    {
        "无输入",
        "没有输入",
        "无",
        "没有",
        "空",
        "暂无",
        "暂无输入",
        "无需",
        "无需输入",
        "无须输入",
        "不需要输入",
        "不用输入",
        "不需要",
        "无需任何输入",
        "无额外输入",
        "没有额外输入",
        "无内容",
        "无输入内容",
        "输入为空",
        "不适用",
        "無",
        "無輸入",
        "沒有輸入",
        "無需輸入",
        "不適用",
        "no input",
        "noinput",
        "nan",
        "n/a",
        "na",
        "nil",
        "null",
        "none",
        "empty",
        "not applicable",
        "no additional input",
        "no input provided",
        "no input given",
        "no input required",
        "no input needed",
        "no input necessary",
    }
)
"""What annotators wrote instead of an empty `input`: case folded, without brackets."""
SENTINEL_OUTPUTS = frozenset(
    {"无输出", "没有输出", "暂无输出", "无需输出", "無輸出", "沒有輸出"}
    | {"no output", "nooutput", "no output required", "no output needed", "nan"}
)
"""What annotators wrote instead of an answer; the answer `无` or `none` may be right."""
BRACKETS = "<>[]()（）【】《》「」\"'“”"
LABEL = re.compile(r"(?i)^(?:input|output|输入|输出|輸入|輸出)\s*[:：]\s*")
LONGEST_SENTINEL = 40


def plain(value: str | list[dict[str, Any]]) -> str:
    """Return a prompt or an answer as one string; a single turn gives its text without the role."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in value)


def contents(value: str | list[dict[str, Any]]) -> list[str]:
    """Return the texts of a prompt or an answer, one per turn."""
    return [value] if isinstance(value, str) else [str(turn["content"]) for turn in value]


def is_blank(value: str | list[dict[str, Any]]) -> bool:
    """Whether a text, or the last one of some turns, has no visible character."""
    if isinstance(value, str):
        return not value[:1].isalnum() and _VISIBLE.search(value) is None
    # a turn that only calls a tool has no text
    return not value or (is_blank(str(value[-1]["content"])) and not value[-1].get("tool_calls"))


def is_sentinel(value: object) -> bool:
    """Whether the `input` of an alpaca row only says that there is none."""
    return isinstance(value, str) and _bare(value) in SENTINELS


def is_sentinel_output(value: str) -> bool:
    """Whether an answer only says that there is none."""
    return _bare(value) in SENTINEL_OUTPUTS


def _bare(value: str) -> str:
    """Return a short text without brackets, entities and the full stop, case folded."""
    if len(value) > 3 * LONGEST_SENTINEL:
        return ""
    # escaped twice by a page that was saved from a page
    text = html.unescape(html.unescape(value)).strip().rstrip("。.!！").strip()
    text = LABEL.sub("", text)
    return text.strip(BRACKETS).strip().rstrip("。.!！").casefold()


@functools.lru_cache(maxsize=16)  # several checks of one record need the same texts
def normalised(value: str) -> str:
    """Return a text for comparison: NFKC, no invisible characters, single spaces, case folded."""
    # NFKC leaves ASCII as it is, which `isascii` finds out much faster
    folded = value if value.isascii() else unicodedata.normalize("NFKC", value)
    if _INVISIBLE.search(folded):
        folded = folded.translate(_DROP_INVISIBLE)
    return " ".join(folded.casefold().split())


def digest(value: str) -> str:
    """Return the 128-bit xxh3 hash of a text, in hex."""
    return xxhash.xxh3_128_hexdigest(value.encode("utf-8", "surrogatepass"))


def prompt_of(record: Record) -> Text:
    """Return what is asked: the prompt, or all turns but the assistant's, or the text."""
    if record.kind == "text":
        return record.text
    if record.messages is None:
        return record.prompt
    return [turn for turn in record.messages if turn["role"] != "assistant"]


def before_last_answer(record: Record) -> Text:
    """Return what a model is given to write the last answer: the prompt, or the turns before it."""
    if record.messages is None:
        return record.prompt
    last = max(i for i, turn in enumerate(record.messages) if turn["role"] == "assistant")
    return record.messages[:last]


def spoken_parts(record: Record) -> list[str]:
    """Return all texts of a record: what is asked, then the answers."""
    answers = [record.chosen, record.rejected, record.completion, *record.answers]
    spoken = [turn for turn in record.messages or [] if turn["role"] == "assistant"]
    prompt = plain(prompt_of(record))
    return [prompt, *(plain(answer) for answer in answers if answer), *contents(spoken)]


def group_id(record: Record) -> str:
    """Return the `group_id` that rows on one prompt share: the hash of the prompt as written."""
    return digest(plain(prompt_of(record)))


def prompt_key(record: Record) -> str:
    """Return a key that is the same for one prompt, whatever its spaces, width and case."""
    return digest(normalised(plain(prompt_of(record))))


def answer_key(answer: str) -> str:
    """Return a key that is the same for one answer, whatever its spaces, width and case."""
    return digest(normalised(answer))
