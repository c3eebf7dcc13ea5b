"""Whole findings of pairs, endings and sets of rows, against slow and plain definitions of them."""

from collections import Counter

import pytest

from data_tools.checks import Finding, Where
from data_tools.checks.endings import breaks_off, lacks_final_mark
from data_tools.checks.lengths import LengthBias
from data_tools.checks.records import cut_by_length, pair_findings
from data_tools.checks.sets import SetChecks, in_circles
from data_tools.checks.texts import text_findings
from data_tools.formats import Record

NEARLY = "one two three four five six seven eight nine ten"


def reachable(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs of nodes with a path from the first to the second."""
    found = set(edges)
    while more := {(a, d) for a, b in found for c, d in edges if b == c} - found:
        found |= more
    return found


def test_circles_of_all_graphs_of_four_nodes() -> None:
    arrows = [(a, b) for a in "abcd" for b in "abcd" if a != b]
    for number in range(1 << len(arrows)):
        edges = {arrow for i, arrow in enumerate(arrows) if number >> i & 1}
        paths = reachable(edges)
        parts = {
            frozenset(b for b in "abcd" if (a, b) in paths and (b, a) in paths) for a in "abcd"
        }
        assert Counter(map(frozenset, in_circles(edges))) == Counter(part for part in parts if part)


@pytest.mark.parametrize("length", [3, 7, 30])
def test_a_long_circle_with_a_chord_is_one(length: int) -> None:
    ring = {(str(i), str((i + 1) % length)) for i in range(length)}
    tail = {("0", "t"), ("t", "u"), ("s", "0")}
    assert in_circles(ring | tail | {("0", "2")}) == [{str(i) for i in range(length)}]


def at(row: int, source: str = "a.jsonl") -> Where:
    return Where(source, row, row)


def pair(chosen: str, rejected: str, prompt: str = "Why?") -> Record:
    return Record("preference", prompt, chosen, rejected)


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ("ab bc", [(1, "chosen_elsewhere_rejected"), (2, "chosen_elsewhere_rejected")]),
        ("ab ac", []),
        ("ab cb", []),
        ("ab ba", [(1, "contradiction"), (2, "contradiction")]),
        ("ab ba cd", [(1, "contradiction"), (2, "contradiction")]),
        ("ab ba ac", [(1, "contradiction"), (2, "contradiction"),
                      (3, "chosen_elsewhere_rejected")]),
        ("ab bc ca", [(1, "preference_cycle"), (2, "preference_cycle"), (3, "preference_cycle")]),
        ("ab bc ca ad", [(1, "preference_cycle"), (2, "preference_cycle"), (3, "preference_cycle"),
                         (4, "chosen_elsewhere_rejected")]),
        ("aa ab", []),
        ("aa", []),
    ],
)  # fmt: skip
def test_preferences_on_one_prompt(pairs: str, found: list[tuple[int, str]]) -> None:
    checks = SetChecks()
    for i, (better, worse) in enumerate(pairs.split(), start=1):
        list(checks.add(at(i), pair(better, worse)))
    assert list(checks.finish()) == [(at(row), Finding(code)) for row, code in found]


def test_repeats_of_rows_name_the_first() -> None:
    checks = SetChecks()
    rows = [
        (at(1), pair("a", "b")),
        (at(2), pair("a", "b")),
        (at(2), pair("a", "c")),
        (at(1, "b.jsonl"), pair("a", "b")),
        (at(4), Record("prompt", "Why?")),
        (at(5), Record("text", text="Why?")),
        (at(6), pair("a", "b", "How?")),
    ]
    again = Finding("duplicate_prompt", "prompt", "first in a.jsonl:1 (row 1)")
    twice = [again, Finding("duplicate_pair")]
    assert [list(checks.add(*row)) for row in rows] == [[], twice, [again], twice, [again], [], []]


def test_the_prompts_of_a_test_file_in_the_training_file() -> None:
    checks = SetChecks()
    names = ("a.train.jsonl", "a.test.jsonl", "b.train.jsonl", "other.jsonl")
    found = [list(checks.add(at(1, name), Record("prompt", "Why?"))) for name in names]
    place = "first in a.train.jsonl:1 (row 1)"
    again, leak = (Finding(c, "prompt", place) for c in ("duplicate_prompt", "leak_exact"))
    assert found == [[], [again, leak], [again], [again]]


def test_rows_that_nearly_repeat_another() -> None:
    checks = SetChecks()
    long = " ".join(f"word{i}" for i in range(60))
    rows = [Record("text", text=long), Record("text", text=f"{long} more"),
            Record("prompt", "short"), Record("prompt", "short!")]  # fmt: skip
    found = [list(checks.add(at(i), row)) for i, row in enumerate(rows, start=1)]
    (near,) = found.pop(1)
    assert (near.code, near.part) == ("near_duplicate", "")
    assert near.found.endswith("% similar to a.jsonl:1 (row 1)")
    assert found == [[], [], []]
    assert checks.more == 0


@pytest.mark.parametrize(("prompts", "length", "number"), [(5, 8, 1), (4, 8, 0), (5, 7, 0)])
def test_an_answer_that_is_rejected_everywhere(prompts: int, length: int, number: int) -> None:
    checks = SetChecks()
    for i in range(prompts):
        for row in (2 * i + 1, 2 * i + 2):  # twice under a prompt counts once
            list(checks.add(at(row), pair(f"yes {row}", "x" * length, f"q{i}")))
    wanted = [(at(1), Finding("rejected_in_many", "rejected", f"{prompts} prompts"))]
    assert list(checks.finish()) == wanted * number


@pytest.mark.parametrize(
    ("chosen", "rejected", "found"),
    [
        ("Yes.", " Yes. ", [Finding("chosen_eq_rejected")]),
        ("Yes now.", "yes  now.", [Finding("chosen_eq_rejected_normalised")]),
        ("Yes.", "Yes. Or no.", [Finding("answer_is_prefix")]),
        ("Yes. Or no.", "Yes.", [Finding("answer_is_prefix")]),
        ("", "Yes.", []),
        (f"{NEARLY} A.", f"{NEARLY} B.", [Finding("chosen_near_rejected", "", "97.6 % similar")]),
        (f"{NEARLY}.", f"{NEARLY[:20]} cut {NEARLY[28:]}.", []),
        ("a" * 90 + "b" * 10, "a" * 90, [Finding("answer_is_prefix")]),
        ("x" + "a" * 99, "a" * 90, []),
        ("x" + "a" * 99, "a" * 95 + "y", [Finding("chosen_near_rejected", "", "96.9 % similar")]),
        ("x" + "a" * 20_000, "a" * 20_000 + "y", []),
        ("x" + "a" * 19_999, "a" * 19_999 + "y",
         [Finding("chosen_near_rejected", "", "100.0 % similar")]),
    ],
)  # fmt: skip
def test_two_answers_that_are_alike(chosen: str, rejected: str, found: list[Finding]) -> None:
    assert list(pair_findings(pair(chosen, rejected, ""))) == found


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "found"),
    [
        ("How many are there?", "一共有四个苹果。", "桌子上有五个梨。",
         [Finding("language_of_prompt", "", "en asked, zh answered")]),
        ("一共有几个？", "There are four.", "I see five of them.",
         [Finding("language_of_prompt", "", "zh asked, en answered")]),
        ("Translate: how many are there?", "一共有四个苹果。", "桌子上有五个梨。", []),
        ("", "一共有四个苹果。", "桌子上有五个梨。", []),
        ("这里一共有几个？", "這裡還沒有東西。", "这里还没有东西。", [Finding("script_mismatch")]),
    ],
)  # fmt: skip
def test_languages_of_a_pair(prompt: str, chosen: str, rejected: str, found: list[Finding]) -> None:
    assert list(pair_findings(pair(chosen, rejected, prompt))) == found


def test_what_the_generator_says_of_its_end() -> None:
    row = {"finish_reason": "length", "chosen_finish_reason": "length"}
    assert list(cut_by_length(row)) == [
        Finding("unfinished_answer", "rejected", "finish_reason: length"),
        Finding("unfinished_answer", "chosen", "chosen_finish_reason: length"),
    ]
    assert list(cut_by_length(dict.fromkeys(row, "stop"))) == []


PROSE = "The house is old. It has a roof of tiles"


@pytest.mark.parametrize(
    ("answer", "broken", "unmarked"),
    [
        (f"{PROSE} and", True, False),
        (f"{PROSE},", True, False),
        (f'{PROSE} that he called "red', True, False),
        (f'{PROSE} that he called "red" once', False, True),
        (f"{PROSE} (which is red", True, False),
        (f"{PROSE} (which is red) and old (or so) once", False, True),
        (f"{PROSE} (which is red) and old (or new", True, False),
        (f"{PROSE} that it needs every single day", False, True),
        (f"{PROSE}.", False, False),
        ("It has a roof of tiles that are red (or", True, False),
        ("It has a roof of tiles that are red (blue", False, False),
        ("Roof of the house and the", True, False),
        ("Of this house and the", False, False),
        (f"- {PROSE} and", False, False),
        (f"```\nx\n```\n{PROSE} and", False, False),
        ("这座房子很老。屋顶上的瓦片都是红色的，因为", True, False),
        ("这座房子很老。屋顶上的瓦片都是红色的而且", True, False),
        ("这座房子很老。屋顶上的瓦片都是红色，", True, False),
        ("这座房子很老。屋顶上的瓦片（红色和蓝色", True, False),
        ("这座房子很老。这个颜色是可以理解的", False, False),
    ],
)
def test_an_answer_that_breaks_off(answer: str, broken: bool, unmarked: bool) -> None:
    assert breaks_off(answer) is broken
    if not broken:
        assert lacks_final_mark(answer) is unmarked


def test_each_kind_of_bracket_may_be_open() -> None:
    for opening, closing in ("“”", "（）", "《》", "【】", "「」", "『』"):
        line = f"这座房子很老。屋顶上的瓦片{opening}红色{closing}都很旧{{}}蓝色"
        assert breaks_off(line.format(opening))
        assert not breaks_off(line.format(""))
        assert not breaks_off(line.format(opening + closing))


@pytest.mark.parametrize(
    ("longer", "shorter", "found"),
    [
        (30, 20, None),  # 0.60 is fair
        (31, 19, None),  # its interval has 0.5 in it
        (40, 0, None),  # too few
        (35, 15, "chosen longer in 70% (56% to 82%)"),
        (36, 14, "strong: chosen longer in 72% (60% to 84%)"),
        (14, 36, "strong: chosen longer in 28% (16% to 40%)"),
        (620, 380, "chosen longer in 62% (59% to 65%)"),
    ],
)
def test_the_bias_of_lengths(longer: int, shorter: int, found: str | None) -> None:
    bias = LengthBias()
    for number, record in ((longer, pair("aaaa", "a")), (shorter, pair("a", "aaaa"))):
        for _ in range(number):
            bias.add(record)
    assert bias.finding() == (None if found is None else Finding("length_bias", "", found))


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("First.\\nSecond.", ["literal_backslash_n"]),
        ('First.\\nSecond\n"x\nend', ["literal_backslash_n"]),
        ('"x\ny\nFirst.\\nSecond', ["literal_backslash_n"]),
        ('First "a\\nb" ends', []),
        ("the \\n at the end", []),
        ("ÄãºÃÊÀ½çÎÒÃÇ", ["mojibake"]),
        ("ÿÿÿÿÿÿÿ", []),
        ("¡¡¡¡¡¡¡¡", []),
        ("þþþþþþþþ", []),
    ],
)
def test_flaws_of_a_text_by_what_is_around(text: str, codes: list[str]) -> None:
    assert [one.code for one in text_findings(text, "text")] == codes
