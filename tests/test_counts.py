"""The counts of rows, their warnings and refusals, on fates that are given."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from alignment.data.columns import Fate
from alignment.data.counts import Counts, count_rows, describe, describe_loss, refuse, warnings
from alignment.errors import DataError
from alignment.registry import STAGES

KEPT, CUT, LONG, EQUAL = Fate.KEPT, Fate.CUT, Fate.TOO_LONG, Fate.EQUAL
EQUAL_CUT, NO_LOSS = Fate.EQUAL_ONCE_CUT, Fate.NO_LOSS


def counted(fates: list[Fate], lengths: list[int], **options: Any) -> Counts:
    return count_rows(
        np.array([int(fate) for fate in fates], np.uint8), np.array(lengths, np.int32), **options
    )


FATES = [KEPT, CUT, CUT | NO_LOSS, LONG, LONG | EQUAL, EQUAL, CUT | EQUAL_CUT]
LENGTHS = [3, 9, 8, 10, 12, 4, 7]


def test_each_fate_is_counted_once_a_row() -> None:
    assert counted(FATES, LENGTHS, limit=5) == Counts(
        limit=5, rows=7, kept=4, learnable=2, cut=3, too_long=2, equal=2, equal_once_cut=1,
        no_loss=1, longest=12, first_too_long=4, beyond_positions=0,
    )  # fmt: skip
    none = counted([], [], limit=None)
    assert (none.rows, none.kept, none.longest, none.first_too_long) == (0, 0, 0, None)


@pytest.mark.parametrize(
    ("limit", "positions", "splits", "beyond"),
    [
        (None, None, False, 0),
        (None, 4, False, 2),  # of the rows that are kept: 3, 9, 4 and 7
        (None, 3, False, 3),
        (5, 4, False, 2),
        (5, 5, False, 0),
        (5, 4, True, 4),  # packing reads blocks of 5
        (5, 5, True, 0),
        (None, 8, True, 1),
        (100, 52, True, 4),  # all rows together have 53 tokens
        (100, 53, True, 0),
    ],
)
def test_rows_beyond_the_positions_of_the_model(
    limit: int | None, positions: int | None, splits: bool, beyond: int
) -> None:
    found = counted(FATES, LENGTHS, limit=limit, positions=positions, splits=splits)
    assert found.beyond_positions == beyond


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ("sft", "7 rows, 4 kept, 3 cut at 1,005 tokens, 1 no-loss rows"),
        ("dpo", "7 rows, 4 kept, 3 cut at 1,005 tokens, 2 equal pairs, 1 equal once cut, "
         "1 no-loss rows"),
        ("rm", "7 rows, 4 kept, 2 too long for 1,005 tokens, 2 equal pairs"),
        ("ppo", "7 rows, 4 kept, 2 too long for 1,005 tokens"),
    ],
)  # fmt: skip
def test_the_line_of_a_stage(stage: str, text: str) -> None:
    assert describe(STAGES[stage], counted(FATES, LENGTHS, limit=1005)) == text
    assert describe(STAGES[stage], counted(FATES, LENGTHS, limit=None)) == text.replace(
        " at 1,005 tokens", ""
    ).replace(" for 1,005 tokens", "")


@pytest.mark.parametrize(
    ("by_role", "learned", "everything", "text"),
    [
        ({"user": 60, "assistant": 40}, 30, False, "30% of 100 tokens carry loss "
         "(assistant 75%, user 0%)"),
        ({"user": 60, "assistant": 40}, 100, True, "100% of 100 tokens carry loss "
         "(assistant 100%, user 100%)"),
        ({"user": 60, "assistant": 40}, 90, True, "90% of 100 tokens carry loss "
         "(assistant 75%, user 100%)"),
        ({"text": 2000, "template": 0}, 2000, False, "100% of 2,000 tokens carry loss (text 100%)"),
        ({"assistant": 10, "template": 10}, 12, False, "60% of 20 tokens carry loss "
         "(assistant 100%, template 0%)"),
        ({}, 0, False, "0% of 0 tokens carry loss ()"),
    ],
)  # fmt: skip
def test_the_share_of_tokens_that_carry_loss(
    by_role: dict[str, int], learned: int, everything: bool, text: str
) -> None:
    assert describe_loss(Counter(by_role), learned, everything=everything) == text


@pytest.mark.parametrize(
    ("stage", "over", "rows", "line"),
    [
        ("sft", 1, 100, None),
        ("sft", 2, 100, "warning: 2.0% of the training rows are cut at max_length 5; the longest "
         "has 9 tokens"),
        ("sft", 2, 199, "warning: 1.0% of the training rows are cut at max_length 5; the longest "
         "has 9 tokens"),
        ("rm", 3, 100, "warning: 3.0% of the training rows are left out at max_length 5; the "
         "longest has 9 tokens"),
        ("ppo", 2, 100, "warning: 2.0% of the training rows are left out at 5 prompt tokens; the "
         "longest has 9 tokens"),
        ("ppo", 0, 100, None),
    ],
)  # fmt: skip
def test_a_warning_from_one_percent_on(stage: str, over: int, rows: int, line: str | None) -> None:
    fate = CUT if stage == "sft" else LONG
    fates = [fate] * over + [KEPT] * (rows - over)
    counts = counted(fates, [9] * over + [3] * (rows - over), limit=5)
    assert list(warnings(STAGES[stage], "training", counts)) == ([line] if line else [])


VALUES: dict[str, Any] = {"on_bad_row": "raise", "max_completion_length": 8, "loss_type": []}


@pytest.mark.parametrize(
    ("stage", "fates", "more", "message"),
    [
        ("sft", [KEPT], {}, None),
        ("sft", [CUT, NO_LOSS], {}, None),
        ("sft", [NO_LOSS], {}, "nothing is left to learn: 1 rows, 0 kept, 0 cut at 5 tokens, 1 "
         "no-loss rows | raise max_length: the longest row has 9 tokens"),
        ("dpo", [EQUAL, EQUAL], {}, "nothing is left to learn: 2 rows, 2 kept, 0 cut at 5 tokens, "
         "2 equal pairs, 0 equal once cut, 0 no-loss rows | chosen and rejected must differ; see "
         "`align data validate`"),
        ("dpo", [EQUAL, CUT | EQUAL_CUT], {}, "raise max_length"),
        ("dpo", [EQUAL], {"loss_type": ["sigmoid", "sft"]}, None),
        ("dpo", [NO_LOSS], {"loss_type": ["sigmoid", "sft"]}, "nothing is left to learn"),
        ("rm", [LONG], {}, "raise max_length"),
        ("ppo", [KEPT, LONG], {}, "1 of 2 prompts leave no room for 8 new tokens, the first of "
         "them a.jsonl:2; the longest has 9 tokens, 5 fit | leave such prompts out: --on_bad_row "
         "drop, or lower max_completion_length"),
        ("ppo", [KEPT, LONG], {"on_bad_row": "drop"}, None),
        ("ppo", [LONG], {"on_bad_row": "drop"}, "lower max_completion_length"),
    ],
)  # fmt: skip
def test_a_run_that_would_learn_nothing_is_refused(
    stage: str, fates: list[Fate], more: dict[str, Any], message: str | None
) -> None:
    counts = counted(fates, [9] * len(fates), limit=5)

    def check() -> None:
        values = {**VALUES, **more}
        refuse(STAGES[stage], "training", counts, values=values, first="a.jsonl:2")

    if message is None:
        check()
        return
    with pytest.raises(DataError) as caught:
        check()
    found = f"{caught.value.message} | {caught.value.remedy}"
    assert found.startswith("training data: ")
    assert message in found


def test_rows_beyond_the_positions_are_refused() -> None:
    counts = counted([KEPT] * 3, [9, 3, 8], limit=None, positions=4)
    with pytest.raises(DataError) as caught:
        refuse(STAGES["sft"], "training", counts, values=VALUES, positions=4)
    assert caught.value.message == (
        "training data: 2 of 3 rows have more tokens than the model has positions (4); the "
        "longest has 9"
    )
    assert caught.value.remedy == (
        "set max_length: 4, or scale the model's positions in its config.json"
    )
