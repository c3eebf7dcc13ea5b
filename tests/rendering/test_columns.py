"""The columns and the fate of a row at each limit, on token ids that can be read."""

import json
from datetime import date
from typing import Any

import numpy as np
import pytest

from alignment.data.columns import COLUMNS, IGNORED, LEFT_OUT, Encoded, Fate, Limits, encode
from alignment.registry import STAGES
from data_tools.formats import Record, Unusable
from data_tools.reading import Row
from data_tools.rendering import Tokens
from data_tools.rendering.places import Located
from data_tools.shapes import Served

NO = IGNORED
CUT, LONG, EQUAL = Fate.CUT, Fate.TOO_LONG, Fate.EQUAL
EQUAL_CUT, NO_LOSS, KEPT = Fate.EQUAL_ONCE_CUT, Fate.NO_LOSS, Fate.KEPT


class Words:
    """Names tokens as a tokenizer does."""

    def id_to_token(self, number: int) -> str:
        return f"<{number}>"


WORDS: Any = Words()


def side(ids: list[int], *loss: tuple[int, int], answer: int = 0) -> Tokens:
    numbers = np.arange(len(ids))
    return Tokens(Located(ids, numbers, numbers + 1), loss, answer, {}, WORDS)


def encoded(stage: str, *sides: Tokens, limits: Limits | None = None, **row: Any) -> Encoded:
    label = row.pop("label", None)
    record = Record("prompt", "asked", label=label)
    served = Served(record, Row("in.jsonl", 1, 1, row))
    return encode(STAGES[stage], served, sides, limits or Limits())


#: A conversation whose answers are the tokens 3 and 4, and 7.
TALK = side([1, 2, 3, 4, 5, 6, 7], (2, 4), (6, 7))


@pytest.mark.parametrize("stage", ["sft", "pt"])
@pytest.mark.parametrize(
    ("tokens", "limits", "ids", "labels", "fate"),
    [
        (TALK, Limits(), TALK.ids, [NO, NO, 3, 4, NO, NO, 7], KEPT),
        (TALK, Limits(tokens=7), TALK.ids, [NO, NO, 3, 4, NO, NO, 7], KEPT),
        (TALK, Limits(tokens=3), [1, 2, 3], [NO, NO, 3], CUT),
        (TALK, Limits(tokens=2), [1, 2], [NO, NO], CUT | NO_LOSS),
        (TALK, Limits(tokens=3, splits=True), TALK.ids, [NO, NO, 3, 4, NO, NO, 7], KEPT),
        (TALK, Limits(tokens=2, keeps_end=True), [6, 7], [NO, 7], CUT),
        # the first token that is kept is predicted from nothing
        (TALK, Limits(tokens=1, keeps_end=True), [7], [7], CUT | NO_LOSS),
        (TALK, Limits(tokens=4, keeps_end=True), [4, 5, 6, 7], [4, NO, NO, 7], CUT),
        (side([1, 2], (0, 1)), Limits(), [1, 2], [1, NO], NO_LOSS),
        (side([1, 2], (0, 2)), Limits(), [1, 2], [1, 2], KEPT),
        (side([1, 2]), Limits(), [1, 2], [NO, NO], NO_LOSS),
    ],
)
def test_supervised_rows(
    stage: str, tokens: Tokens, limits: Limits, ids: list[int], labels: list[int], fate: Fate
) -> None:
    found = encoded(stage, tokens, limits=limits)
    assert found.columns == {"input_ids": ids, "labels": labels}
    assert (found.length, found.fate, found.sides) == (len(tokens.ids), fate, (tokens,))


@pytest.mark.parametrize(
    ("chosen", "rejected", "limit", "fate"),
    [
        ([1, 2, 3], [1, 2], None, KEPT),
        ([1, 2, 3], [1, 2], 3, KEPT),
        ([1, 2, 3], [1, 2], 2, LONG),
        ([1, 2], [1, 2, 3], 2, LONG),
        ([1, 2], [1, 2], None, EQUAL),
        ([1, 2], [1, 2], 1, LONG | EQUAL),
    ],
)
def test_pairs_of_a_reward_model(
    chosen: list[int], rejected: list[int], limit: int | None, fate: Fate
) -> None:
    sides = side(chosen), side(rejected)
    found = encoded("rm", *sides, limits=Limits(tokens=limit))
    assert found.columns == {"chosen_ids": chosen, "rejected_ids": rejected}
    assert (found.length, found.fate, found.sides) == (
        max(len(chosen), len(rejected)),
        fate,
        sides,
    )


def answers(one: list[int], other: list[int]) -> tuple[Tokens, Tokens]:
    """Two sides whose prompt is the tokens 1 and 2, and whose answers carry loss."""
    first, second = [1, 2, *one], [1, 2, *other]
    return side(first, (2, len(first)), answer=2), side(second, (2, len(second)), answer=2)


@pytest.mark.parametrize(
    ("one", "other", "limits", "fate"),
    [
        ([3, 4], [5], Limits(), KEPT),
        ([3, 4], [5], Limits(tokens=4), KEPT),
        ([3, 4], [5], Limits(tokens=3), CUT),
        ([5], [3, 4], Limits(tokens=3), CUT),
        ([3, 4], [5], Limits(tokens=2), CUT | NO_LOSS),
        ([3, 4], [3, 4], Limits(), EQUAL),
        ([3, 4], [3, 4], Limits(tokens=3), CUT | EQUAL),
        ([3, 4], [3, 5], Limits(tokens=3), CUT | EQUAL_CUT),
        ([3, 4], [3], Limits(tokens=3), CUT | EQUAL_CUT),
        ([3, 4], [3, 5], Limits(tokens=2), CUT | NO_LOSS),
        ([3, 4], [3, 5], Limits(tokens=3, splits=True), KEPT),
        ([3, 4], [5, 4], Limits(tokens=2, keeps_end=True), CUT),
        ([3, 4], [5, 4], Limits(tokens=1, keeps_end=True), CUT | NO_LOSS),
        ([3, 4], [], Limits(), NO_LOSS),
        ([], [3, 4], Limits(), NO_LOSS),
    ],
)
def test_pairs_with_their_prompt(
    one: list[int], other: list[int], limits: Limits, fate: Fate
) -> None:
    sides = answers(one, other)
    found = encoded("dpo", *sides, limits=limits)
    assert found.columns == {
        "prompt_ids": [1, 2],
        "chosen_ids": one,
        "rejected_ids": other,
        "chosen_mask": [True] * len(one),
        "rejected_mask": [True] * len(other),
    }
    length = 2 + max(len(one), len(other))
    assert (found.length, found.fate, found.sides) == (length, fate, sides)


def test_a_prompt_ends_at_the_last_token_that_both_sides_share() -> None:
    """A tokenizer merged the end of the prompt with the answer of one side."""
    chosen, rejected = side([1, 2, 3], (2, 3), answer=2), side([1, 9], (1, 2), answer=2)
    found = encoded("dpo", chosen, rejected).columns
    assert found["prompt_ids"] == [1]
    assert (found["chosen_ids"], found["rejected_ids"]) == ([2, 3], [9])
    assert (found["chosen_mask"], found["rejected_mask"]) == ([False, True], [True])
    first = side([1, 2, 3], (1, 3), answer=1)
    assert encoded("dpo", first, side([1, 2, 4], (2, 3), answer=2)).columns["prompt_ids"] == [1]
    assert (
        encoded("dpo", side([5, 2], (1, 2), answer=1), side([6, 3], (1, 2), answer=1)).columns[
            "prompt_ids"
        ]
        == []
    )


@pytest.mark.parametrize(
    ("limits", "fate"),
    [
        (Limits(), KEPT),
        (Limits(tokens=4), KEPT),
        (Limits(tokens=3), CUT),
        (Limits(tokens=2), CUT | NO_LOSS),
        (Limits(tokens=2, keeps_end=True), CUT),
        (Limits(tokens=1, keeps_end=True), CUT | NO_LOSS),
    ],
)
@pytest.mark.parametrize("label", [True, False])
def test_labelled_rows(limits: Limits, fate: Fate, label: bool) -> None:
    tokens = side([1, 2, 3, 4], (2, 4), answer=2)
    found = encoded("kto", tokens, limits=limits, label=label)
    assert found.columns == {
        "prompt_ids": [1, 2],
        "completion_ids": [3, 4],
        "completion_mask": [True, True],
        "label": label,
    }
    assert (found.length, found.fate, found.sides) == (4, fate, (tokens,))


def test_a_label_row_without_loss_in_its_answer_is_left_out() -> None:
    tokens = side([1, 2, 3], (0, 2), answer=2)
    assert encoded("kto", tokens, label=True).fate == NO_LOSS
    late = side([1, 2, 3, 4], (3, 4), answer=2)
    assert encoded("kto", late, limits=Limits(tokens=3), label=True).fate == CUT | NO_LOSS
    partly = side([1, 2, 3, 4], (1, 4), answer=2)
    found = encoded("kto", partly, label=True)
    assert (found.fate, found.columns["completion_mask"]) == (KEPT, [True, True])


@pytest.mark.parametrize(("limit", "fate"), [(None, KEPT), (3, KEPT), (2, LONG)])
def test_prompts_with_their_row(limit: int | None, fate: Fate) -> None:
    tokens = side([1, 2, 3])
    row = {"prompt": "raw", "gold": "四", "n": 10**30, "day": date(2024, 1, 2)}
    found = encoded("ppo", tokens, limits=Limits(tokens=limit), **row)
    assert found.columns["prompt_ids"] == [1, 2, 3]
    text = found.columns["row"]
    assert json.loads(text) == {**row, "prompt": "asked", "day": "2024-01-02"}
    assert "四" in text
    assert (found.length, found.fate, found.sides) == (3, fate, (tokens,))


def test_a_token_without_an_embedding_is_refused_on_either_side() -> None:
    for sides in ((side([1, 2]), side([7, 8, 3])), (side([7, 8, 3]), side([1, 2]))):
        encoded("rm", *sides, limits=Limits(vocabulary=9))
        with pytest.raises(Unusable) as caught:
            encoded("rm", *sides, limits=Limits(vocabulary=8))
        assert caught.value.code == "no_embedding"
        assert caught.value.reason == (
            "the tokenizer makes '<8>' token 8, and the model has 8 embeddings"
        )


def test_every_kind_of_row_has_its_columns() -> None:
    assert {stage.kind for stage in STAGES.values()} == set(COLUMNS)
    assert LEFT_OUT == LONG | NO_LOSS
    assert len({int(fate) for fate in Fate}) == 5


@pytest.mark.parametrize(
    ("limits", "length", "over"),
    [
        (Limits(), 10**9, False),
        (Limits(tokens=4), 4, False),
        (Limits(tokens=4), 5, True),
        (Limits(tokens=4, splits=True), 5, False),
    ],
)
def test_a_row_is_over_the_limit_by_one_token(limits: Limits, length: int, over: bool) -> None:
    assert limits.is_over(length) is over
