"""Show answers side by side, starting with the prompts on which the models differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.report.headline import number

if TYPE_CHECKING:
    from alignment.evaluate.records import Answer, AnswerRow, Evaluation, Prompt

_FEWEST_IN_GROUP = 5
_MOST_GROUPS = 12


@dataclass(frozen=True)
class Shown:
    """One answer as the page shows it; `mark` is right, wrong or empty."""

    model: str
    color: int
    text: str
    mark: str
    notes: list[str]


@dataclass(frozen=True)
class Card:
    """A prompt with every model's answer; `kind` is gained, lost, differs or same."""

    number: int
    kind: str
    turns: list[tuple[str, str]]
    columns: list[tuple[str, str]]
    answers: list[Shown]


@dataclass(frozen=True)
class Group:
    """Share of right answers by model, among the rows with one value of a column."""

    value: str
    rows: int
    shares: list[float | None]


@dataclass(frozen=True)
class Breakdown:
    """The scores of the first rule, grouped by the values of a column."""

    column: str
    groups: list[Group]


_SHARES = {"gained": 0.4, "lost": 0.3, "differs": 0.2, "same": 0.1}
"""Kinds in the order in which shown prompts are chosen; the rest is filled up afterwards."""


def side_by_side(evaluation: Evaluation, *, most: int) -> tuple[list[Card], Counter[str]]:
    """At most `most` cards, gained, lost and differing ones first; and the counts of all.

    By the first rule, a prompt is lost if a model scores below the reference, and gained if a model
    scores above it and none below.
    """
    cards = [_card(evaluation, row) for row in evaluation.rows]
    counts = Counter(card.kind for card in cards)
    room = {kind: min(counts[kind], int(most * share)) for kind, share in _SHARES.items()}
    for kind in _SHARES:
        room[kind] += min(counts[kind] - room[kind], most - sum(room.values()))
    shown = [
        card for kind in _SHARES for card in [c for c in cards if c.kind == kind][: room[kind]]
    ]
    return shown, counts


def breakdowns(evaluation: Evaluation) -> list[Breakdown]:
    """A table of the first rule for each column with few values (kind, language, ...)."""
    if not evaluation.rules:
        return []
    found = []
    for column in evaluation.rows[0].columns:
        values = [row.columns[column] for row in evaluation.rows]
        if not all(isinstance(value, str | int | bool) for value in values):
            continue
        counts = Counter(map(str, values))
        if 2 <= len(counts) <= _MOST_GROUPS and min(counts.values()) >= _FEWEST_IN_GROUP:
            groups = [_group(evaluation, column, value) for value in sorted(counts)]
            found.append(Breakdown(column, groups))
    return found


def _group(evaluation: Evaluation, column: str, value: str) -> Group:
    rule = evaluation.rules[0].name
    rows = [row for row in evaluation.rows if str(row.columns[column]) == value]
    shares: list[float | None] = []
    for model in evaluation.models:
        scores = [s for row in rows if (s := row.answers[model.name].scores[rule]) is not None]
        shares.append(sum(scores) / len(scores) if scores else None)
    return Group(value, len(rows), shares)


def _card(evaluation: Evaluation, row: AnswerRow) -> Card:
    return Card(
        number=row.index + 1,
        kind=_kind(evaluation, row),
        turns=_turns(row.prompt),
        columns=[(key, _plain(value)) for key, value in row.columns.items() if value is not None],
        answers=[
            _shown(evaluation, model.name, i, row.answers[model.name])
            for i, model in enumerate(evaluation.models)
        ],
    )


def _kind(evaluation: Evaluation, row: AnswerRow) -> str:
    others = [model.name for model in evaluation.models if model.name != evaluation.reference]
    if evaluation.rules and evaluation.reference:
        rule = evaluation.rules[0].name
        base = row.answers[evaluation.reference].scores[rule]
        scores = [s for name in others if (s := row.answers[name].scores[rule]) is not None]
        if base is not None and any(score < base for score in scores):
            return "lost"
        if base is not None and any(score > base for score in scores):
            return "gained"
    texts = {answer.text.strip() for answer in row.answers.values()}
    return "differs" if len(texts) > 1 else "same"


def _shown(evaluation: Evaluation, model: str, color: int, answer: Answer) -> Shown:
    notes = [] if answer.reward is None else [f"reward {number(answer.reward)}"]
    for rule in evaluation.rules[1:]:
        score = answer.scores[rule.name]
        if score is not None:
            notes.append(f"{rule.name} {number(score)}")
    notes += [] if answer.eos else [f"cut at {answer.tokens} tokens"]
    mark = ""
    if evaluation.rules:
        first = evaluation.rules[0]
        score = answer.scores[first.name]
        if score is not None and first.is_share:
            mark = "right" if score == 1 else "wrong"
        elif score is not None:
            notes.insert(0, f"{first.name} {number(score)}")
    return Shown(model, color, answer.text.strip(), mark, notes)


def _turns(prompt: Prompt) -> list[tuple[str, str]]:
    if isinstance(prompt, str):
        return [("", prompt)]
    if len(prompt) == 1:
        return [("", _plain(prompt[0].get("content")))]
    return [(str(turn.get("role", "")), _plain(turn.get("content"))) for turn in prompt]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
