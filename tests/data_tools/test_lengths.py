"""What max_length cuts, counted by hand: sides are lists of ids and the place of the answer."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from data_tools.checks import Finding, Where
from data_tools.checks.lengths import Truncation
from data_tools.formats import Record, Unusable

LIMIT = 10
RECORD = Record("preference", "q", "a", "b")


class Lengths:
    """A renderer whose sides are the numbers that `next_sides` gives, in order."""

    def __init__(self, *records: list[tuple[list[int], int]] | str) -> None:
        self.records = iter(records)

    def sequences(self, record: Record) -> dict[int, tuple[list[int], int]]:
        sides = next(self.records)
        if isinstance(sides, str):
            raise Unusable("template", sides)
        return dict(enumerate(sides))

    def encode(self, sides: list[tuple[list[int], int]]) -> list[Any]:
        return [SimpleNamespace(ids=ids, answer=answer) for ids, answer in sides]


def side(length: int, *, answer: int = 3, last: int = 1) -> tuple[list[int], int]:
    return [*range(length - 1), -last], answer


def judged(*records: list[tuple[list[int], int]] | str) -> tuple[Truncation, list[Finding]]:
    truncation = Truncation(cast(Any, Lengths(*records)), LIMIT)
    found = [finding for row in range(len(records))
             for _, finding in truncation.add(Where("f", row), RECORD)]  # fmt: skip
    return truncation, found + [finding for _, finding in truncation.finish()]


def test_what_is_cut_is_counted_by_side() -> None:
    truncation, found = judged(
        [side(10), side(9)],  # fits to the token
        [side(11), side(8)],
        [side(7), side(14)],
        [side(12), side(13, last=2)],  # both are cut, and then equal
        [side(33, answer=10), side(12, answer=10)],  # no room for an answer
        [side(12, answer=9), side(2)],
        [side(15)],
    )
    assert [(one.code, one.part, one.found) for one in found] == [
        ("truncated", "", "11 tokens, max_length 10"),
        ("truncated", "", "14 tokens, max_length 10"),
        ("truncated", "", "13 tokens, max_length 10"),
        ("equal_once_cut", "", "max_length 10"),
        ("prompt_truncated", "prompt", "max_length 10"),
        ("truncated", "", "12 tokens, max_length 10"),
        ("truncated", "", "15 tokens, max_length 10"),
    ]
    assert truncation.as_json() == {
        "max_length": 10, "records": 7, "cut": 6, "cut_share": round(6 / 7, 4),
        "tokens_cut_share": round((1 + 4 + 2 + 3 + 23 + 2 + 2 + 5) / 158, 4),
        "chosen_cut": 3, "rejected_cut": 2, "one_side_cut": 3, "prompt_fills": 1,
        "equal_once_cut": 1,
    }  # fmt: skip
    assert truncation.lengths == {0: 6, 32: 1}
    bias = truncation.bias
    assert (bias.longer, bias.shorter, bias.even) == (4, 2, 0)
    (share, *rest) = truncation.findings()
    assert share == Finding(
        "truncated_share", "", "85.7% of the records, 26.6% of the tokens past 10"
    )
    assert rest == []
    assert Truncation(cast(Any, Lengths()), LIMIT).as_json()["cut_share"] == 0.0


def test_answers_that_differ_before_the_cut_are_not_equal() -> None:
    one, other = side(12), side(12)
    other[0][9] = 77
    assert [finding.code for finding in judged([one, other])[1]] == ["truncated"]


def test_a_record_that_the_template_refuses_is_named_and_not_counted() -> None:
    truncation, found = judged("no system role", [side(3), side(4)])
    assert found == [Finding("template", "", "no system role")]
    assert truncation.records == 1


def test_a_full_batch_is_judged_at_once() -> None:
    truncation = Truncation(cast(Any, Lengths(*[[side(11), side(3)]] * 300)), LIMIT)
    counts = [len(truncation.add(Where("f", row), RECORD)) for row in range(300)]
    assert counts == [0] * 255 + [256] + [0] * 44
    assert [where.row for where, _ in truncation.finish()] == list(range(256, 300))
    assert truncation.finish() == []


@pytest.mark.parametrize(
    ("chosen", "rejected", "whole", "found"),
    [
        (50, 0, 0, [("chosen", "rejected 0, chosen 50 times")]),
        (0, 50, 0, [("rejected", "rejected 50, chosen 0 times")]),
        (49, 0, 0, []),  # too few
        (10, 40, 0, [("rejected", "rejected 40, chosen 10 times")]),  # 80 %
        (11, 40, 0, []),
        (25, 25, 0, []),
        (50, 0, 4949, [("chosen", "rejected 0, chosen 50 times")]),
        (50, 0, 4950, []),  # 1 % of the records
    ],
)
def test_a_side_that_is_cut_more_often_is_named(
    chosen: int, rejected: int, whole: int, found: list[tuple[str, str]]
) -> None:
    truncation = Truncation(cast(Any, Lengths()), LIMIT)
    truncation.records = chosen + rejected + whole
    truncation.chosen_cut, truncation.rejected_cut = chosen, rejected
    truncation.one_cut = chosen + rejected
    assert [(one.part, one.found) for one in truncation.findings()] == found


@pytest.mark.parametrize(("cut", "found"), [(10, 0), (11, 1)])
def test_more_than_a_hundredth_of_the_records_is_a_finding(cut: int, found: int) -> None:
    truncation = Truncation(cast(Any, Lengths()), LIMIT)
    truncation.records, truncation.cut = 1000, cut
    truncation.tokens, truncation.tokens_cut = 1000, 5
    assert len(list(truncation.findings())) == found
