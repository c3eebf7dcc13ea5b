"""Checks one record: its texts, and its parts against each other."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rapidfuzz import fuzz

from data_tools.checks import Finding
from data_tools.checks.endings import breaks_off, lacks_final_mark
from data_tools.checks.language import chinese_script, differ, language
from data_tools.checks.texts import text_findings
from data_tools.formats import (
    Message,
    Record,
    Text,
    contents,
    is_sentinel,
    is_sentinel_output,
    normalised,
    plain,
)

NEAR = 95.0
LONGEST_COMPARED = 20_000


def record_findings(record: Record, *, special: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield all flaws that a record shows by itself.

    Args:
        record: The record.
        special: Special tokens of a tokenizer, which must not be in a text.
    """
    for part, value in _parts(record):
        for content in contents(value):
            yield from text_findings(content, part)
            if named := next((token for token in special if token in content), ""):
                yield Finding("special_token", part, named)
        if not isinstance(value, str):
            yield from _turn_order(value, part)
    if is_sentinel(plain(record.prompt).rsplit("\n", 1)[-1]):
        yield Finding("sentinel_input", "prompt")
    for part, answer in _answers(record):
        yield from _answer_findings(part, answer)
    if record.kind == "preference":
        yield from pair_findings(record)


def _answer_findings(part: str, answer: str) -> Iterator[Finding]:
    if is_sentinel_output(answer):
        yield Finding("sentinel_output", part, answer[:40])
    if breaks_off(answer):
        yield Finding("unfinished_answer", part, answer[-12:])
    elif lacks_final_mark(answer):
        yield Finding("no_final_mark", part, answer[-12:])


def cut_by_length(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield answers that stopped at the token limit, if the generator has noted it in the row."""
    for key, part in (("finish_reason", "rejected"), ("chosen_finish_reason", "chosen")):
        if data.get(key) == "length":
            yield Finding("unfinished_answer", part, f"{key}: length")


def pair_findings(record: Record) -> Iterator[Finding]:
    """Yield the flaws that the two sides of a pair show together and with the prompt."""
    chosen, rejected = plain(record.chosen), plain(record.rejected)
    yield from _similarity(chosen, rejected)
    if record.margin is not None and record.margin <= 0:
        yield Finding("tie" if record.margin == 0 else "negative_margin", "", f"{record.margin:g}")
    spoken = language(chosen), language(rejected)
    if differ(*spoken):
        yield Finding("language_mismatch", "", f"{spoken[0]} against {spoken[1]}")
    # the language of the last question, since a system prompt is often in English
    asked = language(contents(record.prompt)[-1]) if record.prompt else "other"
    # only between Chinese and English, where scripts are a reliable sign
    other = asked in ("zh", "en") and {*spoken} <= {"zh", "en"} - {asked}
    # a translation is asked for in one language and given in another
    if other and not NAMES_LANGUAGE.search(plain(record.prompt)):
        yield Finding("language_of_prompt", "", f"{asked} asked, {spoken[0]} answered")
    scripts = {chinese_script(chosen), chinese_script(rejected)}
    if scripts == {"traditional", "simplified"}:
        yield Finding("script_mismatch")


def _similarity(chosen: str, rejected: str) -> Iterator[Finding]:
    """Yield the strongest code for the similarity of two answers; nothing if they differ enough."""
    one, other = chosen.strip(), rejected.strip()
    if one == other:
        yield Finding("chosen_eq_rejected")
        return
    one, other = (normalised(side).replace(" ", "") for side in (one, other))
    if one == other:
        yield Finding("chosen_eq_rejected_normalised")
        return
    if one and other and (one.startswith(other) or other.startswith(one)):
        yield Finding("answer_is_prefix")
        return
    # the ratio takes quadratic time; texts of different length cannot reach the bound
    shorter, longer = sorted((len(one), len(other)))
    if longer <= LONGEST_COMPARED and shorter >= longer * 0.9:
        ratio = fuzz.ratio(one, other, score_cutoff=NEAR)
        if ratio:
            yield Finding("chosen_near_rejected", "", f"{ratio:.1f} % similar")


def _parts(record: Record) -> list[tuple[str, Text]]:
    named: list[tuple[str, Text | None]] = [
        ("prompt", record.prompt),
        ("chosen", record.chosen),
        ("rejected", record.rejected),
        ("completion", record.completion),
        ("messages", record.messages),
        ("text", record.text),
    ]
    return [(name, value) for name, value in named if value]


def _turn_order(turns: list[Message], part: str) -> Iterator[Finding]:
    roles = [turn["role"] for turn in turns]
    for i, (one, following) in enumerate(itertools.pairwise(roles), start=1):
        if one == following and one in ("user", "assistant"):
            yield Finding("role_order", part, f"turns {i} and {i + 1} are both of the {one}")
            return
    if part == "messages" and roles[-1] != "assistant":
        yield Finding("role_order", part, f"the last turn is of the {roles[-1]}")


def _answers(record: Record) -> list[tuple[str, str]]:
    """Return the answers of a record that a model learns from, by part."""
    named = [
        ("chosen", record.chosen),
        ("rejected", record.rejected),
        ("completion", record.completion),
        ("messages", record.messages[-1:] if record.messages else ""),
    ]
    return [(part, plain(answer)) for part, answer in named if answer]


NAMES_LANGUAGE = re.compile(
    r"(?i)翻译|翻譯|译成|譯成|[英中日韩法德俄]文|[英汉日韩法德俄]语|\btranslat|\b(?:english|chinese)\b"
)
