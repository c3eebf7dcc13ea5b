"""Formats with several ranked or scored answers to a prompt."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from data_tools.formats.record import (
    CONTEXT,
    Adapter,
    Data,
    Record,
    Text,
    Unusable,
    alias,
    fields,
    json_value,
    members,
    number,
    text,
)
from data_tools.formats.turns import ANSWER_MARKERS, answer, messages, ranked_of, with_input
from data_tools.reading import MadeRow, Row

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
ALPACA_TEMPLATE = re.compile(
    r"Below is an instruction.*?### Instruction:\s*(.*?)"
    r"(?:\s*### Input:\s*(.*?))?\s*### Response:\s*$",
    re.DOTALL,
)


def alpaca_ranked(data: Data) -> Record:
    """Alpaca keys with `output` a list, best first."""
    answers = [answer(member, "output") for member in members(data, "output")]
    return ranked_of(text(data, "instruction"), answers)


def ultrafeedback(data: Data) -> list[Record | Unusable]:
    """UltraFeedback raw: the mean of four ratings; an answer without any is left out."""
    answers: list[Text] = []
    scores: list[float] = []
    passed: list[Unusable] = []
    for i, member in enumerate(members(data, "completions")):
        completion = fields(member, f"completions[{i}]")
        score = _mean_rating(
            fields(completion.get("annotations", {}), f"completions[{i}].annotations")
        )
        if score is None:
            passed.append(Unusable("unrated", f"completions[{i}] has no rating"))
        else:
            answers.append(text(completion, "response"))
            scores.append(score)
    return [ranked_of(text(data, "instruction"), answers, scores), *passed]


def webgpt(data: Data) -> Record:
    """WebGPT comparisons: two answers and their scores."""
    question = data["question"]
    if isinstance(question, dict) or question.startswith("{"):  # a table has it as text
        question = json_value(question)
    prompt = (
        question if isinstance(question, str) else text(fields(question, "question"), "full_text")
    )
    answers: list[Text] = [text(data, "answer_0"), text(data, "answer_1")]
    return ranked_of(prompt, answers, [number(data, "score_0"), number(data, "score_1")])


def helpsteer(data: Data) -> Record:
    """HelpSteer 1 and 2: one answer per row; adjacent rows of one prompt are joined."""
    rows = data.get("rows", [data])
    answers: list[Text] = [text(row, "response") for row in rows]
    return ranked_of(text(data, "prompt"), answers, [number(row, "helpfulness") for row in rows])


def gather_prompts(rows: Iterable[Row]) -> Iterator[Row]:
    """Join adjacent rows of one prompt, and all that belongs to it, into one that has `rows`."""
    held: list[Row] = []
    for row in rows:
        if held and _question(held[0]) != _question(row):
            yield _joined(held)
            held = []
        held.append(row)
    if held:
        yield _joined(held)


def _question(row: Row) -> list[Any]:
    return [row.data.get(name) for name in ("prompt", *CONTEXT)]


def text_and_score(data: Data) -> Record:
    """APO, DSP, RRHF: whole dialogues in `text`, a number for each in `score`."""
    dialogues, scores = members(data, "text"), members(data, "score")
    if len(dialogues) != len(scores) or not all(isinstance(d, str) for d in dialogues):
        raise Unusable("wrong_type", f"{len(dialogues)} texts and {len(scores)} scores")
    marker = next((m for m in ANSWER_MARKERS if dialogues and m in dialogues[0]), None)
    if marker is None:
        raise Unusable("no_markers", "no marker of an answer in 'text'")
    # the last marker: the texts are whole conversations
    parts = [one.rpartition(marker) for one in dialogues]
    if len({head for head, _, _ in parts}) != 1:
        raise Unusable("prompt_mismatch", "the texts do not share one prompt")
    values = [number({"score": score}, "score") for score in scores]
    answers: list[Text] = [tail.removeprefix(" ") for _, _, tail in parts]
    return ranked_of(parts[0][0] + marker, answers, values)


def gpt4llm(data: Data) -> Record:
    """GPT-4-LLM comparison: `user_input` in the alpaca template, scored responses."""
    wrapped = text(data, "user_input")
    match = ALPACA_TEMPLATE.match(wrapped)
    prompt = with_input(match[1], match[2] or "") if match else wrapped
    rated = [
        fields(member, f"responses_and_scores[{i}]")
        for i, member in enumerate(members(data, "responses_and_scores"))
    ]
    return ranked_of(
        prompt, [text(r, "response") for r in rated], [number(r, "score") for r in rated]
    )


def scored_answers(data: Data) -> Record:
    """`prompt, responses, scores`: a list of answers and a number for each."""
    answers: list[Text] = [answer(member, "responses") for member in members(data, "responses")]
    scores = [number({"scores": score}, "scores") for score in members(data, "scores")]
    if len(scores) != len(answers):
        raise Unusable("wrong_type", f"{len(answers)} responses and {len(scores)} scores")
    return ranked_of(text(data, "prompt"), answers, scores)


def ranked_answers(data: Data) -> Record:
    """`prompt, responses`: a list of answers, best first."""
    answers: list[Text] = [answer(member, "responses") for member in members(data, "responses")]
    return ranked_of(answer(data[alias(data, "prompt")], "prompt"), answers)


def ranked_completions(data: Data) -> Record:
    """NeMo-RL: turns in `context`, answers in `completions`, each with its `rank` (0 is best)."""
    found = [
        fields(member, f"completions[{i}]") for i, member in enumerate(members(data, "completions"))
    ]
    scores = [-number(member, "rank") for member in found]
    answers = [answer(member.get("completion"), "completion") for member in found]
    return ranked_of(messages(data["context"], "context"), answers, scores)


def _mean_rating(annotations: Data) -> float | None:
    """Return the mean of the ratings that are numbers; real files write some as `N/A`."""
    ratings = [annotations.get(aspect) for aspect in ASPECTS]
    values = [r.get("Rating") for r in ratings if isinstance(r, dict)]
    numbers = [float(v) for v in values if isinstance(v, str | int) and str(v).isdigit()]
    return sum(numbers) / len(numbers) if numbers else None


def _joined(rows: list[Row]) -> Row:
    first = rows[0]
    members = [row.data for row in rows]
    # a column that only a later row fills is named too if nothing reads it
    data = {k: v for row in reversed(members) for k, v in row.items() if v not in (None, "")}
    data |= {**{k: v for k, v in first.data.items() if k not in data}, "rows": members}
    return MadeRow(first.source, first.number, first.start, data, members)


FORMATS = (
    # several answers are a ranking only if the user or the source says so
    Adapter("alpaca-ranked", {"instruction": "text", "output": "texts"}, alpaca_ranked, auto=False),
    Adapter(
        "nemo-rl",
        {"context": "turns", "completions": "turns"},
        ranked_completions,
        reads=("completions[].rank",),
    ),
    Adapter(
        "ultrafeedback",
        {"instruction": "text", "completions": "turns"},
        ultrafeedback,
        reads=tuple(f"completions[].annotations.{aspect}.Rating" for aspect in ASPECTS),
    ),
    Adapter(
        "webgpt",
        {
            "question": "text|object",
            "answer_0": "text",
            "answer_1": "text",
            "score_0": "number|text",
            "score_1": "number|text",
        },
        webgpt,
    ),
    Adapter(
        "helpsteer",
        {
            "prompt": "text",
            "response": "text",
            "helpfulness": "number|text",
            "correctness": "number|text",
        },
        helpsteer,
        gather=gather_prompts,
    ),
    Adapter("text-score", {"text": "texts", "score": "numbers"}, text_and_score),
    Adapter(
        "gpt4llm",
        {"user_input": "text", "responses_and_scores": "turns"},
        gpt4llm,
        reads=("responses_and_scores[].score",),
    ),
    Adapter(
        "scored",
        {"prompt": "text", "responses": "texts", "scores": "numbers|texts|lists|null"},
        scored_answers,
    ),
    Adapter(
        "ranked",
        {"prompt": "text", "responses": "texts"},
        ranked_answers,
        aliased=True,
        strength=1,
        auto=False,
    ),
)
