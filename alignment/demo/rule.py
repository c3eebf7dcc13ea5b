"""The hidden rule that decides whether an answer is right; only evaluation calls it."""

import re
from collections.abc import Sequence
from typing import Any

from alignment.errors import DataError

Message = dict[str, Any]

HAN = re.compile(r"[\u4e00-\u9fff]")
COURTEOUS = {
    "zh": re.compile(r"(?:您好|你好)[，！](?:答案是|是)?(?P<value>[^。！？，]+)[。！]"),
    "en": re.compile(r"(?:Hello|Hi)[,!] (?:(?:the answer|it) is )?(?P<value>[^.!?,]+)[.!]"),
}
BRIEF = {
    "zh": re.compile(r"(?P<value>[^。！？，]+)。"),
    "en": re.compile(r"(?P<value>[^.!?,]+)\."),
}


def score(
    prompts: Sequence[str | list[Message]],
    completions: Sequence[str | list[Message]],
    **columns: Any,
) -> list[float]:
    """Score answers by the courteous rule: greet, answer rightly in the asker's language, stop.

    Args:
        prompts: Questions, plain or as messages.
        completions: Answers, plain or as messages.
        **columns: The other columns of the prompt file; `answer` is the value to find.

    Returns:
        1.0 for a right answer, 0.0 for any other.

    Raises:
        DataError: The prompt file has no column `answer`.
    """
    return _score(COURTEOUS, prompts, completions, columns)


def score_brief(
    prompts: Sequence[str | list[Message]],
    completions: Sequence[str | list[Message]],
    **columns: Any,
) -> list[float]:
    """Score answers by the brief rule: only the right value, in the language of the question.

    Arguments, result and errors are those of `score`.
    """
    return _score(BRIEF, prompts, completions, columns)


def _score(
    patterns: dict[str, re.Pattern[str]],
    prompts: Sequence[str | list[Message]],
    completions: Sequence[str | list[Message]],
    columns: dict[str, Any],
) -> list[float]:
    if "answer" not in columns:
        raise DataError(
            "the demo's rule needs a column `answer` next to each prompt",
            "use recipes/demo/data/held_out.jsonl, or add the column",
        )
    verdicts = []
    for prompt, completion, answer in zip(prompts, completions, columns["answer"], strict=True):
        language = "zh" if HAN.search(_frame(_text(prompt))) else "en"
        found = patterns[language].fullmatch(_text(completion).strip())
        verdicts.append(float(found is not None and found["value"].strip() == answer))
    return verdicts


def _frame(prompt: str) -> str:
    """The question without its numerals, which may be in the other language."""
    return re.sub(r"[零一二三四五六七八九十百]", "", prompt)


def _text(turns: str | list[Message]) -> str:
    return turns if isinstance(turns, str) else str(turns[-1]["content"])
