"""Label shortcuts and licences: pairs made by hand, and the shares on real slices."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import write_jsonl

from data_tools.checks.shortcuts import REFUSALS, Lean, Shortcuts, is_refusal
from data_tools.checks.validate import validate
from data_tools.cli import data
from data_tools.formats import Record
from data_tools.reading import licences_of

ANSWERS = ["Paris it is.", "Blue whales.", "Never on Mondays.", "About forty.", "The red one."]


def rows(count: int, marked: int, chosen: str = "{}", rejected: str = "{}") -> list[dict[str, Any]]:
    """Pairs of which the first `marked` have their answers put into a form."""
    made = []
    for i in range(count):
        good, bad = f"{i} {ANSWERS[i % 5]}", f"{i + 7} {ANSWERS[(i + 2) % 5]}"
        if i < marked:
            good, bad = chosen.format(good), rejected.format(bad)
        made.append({"prompt": f"Question {i}?", "chosen": good, "rejected": bad})
    return made


def shortcuts(path: Path, made: list[dict[str, Any]]) -> dict[str, int]:
    totals = validate([write_jsonl(path / "in.jsonl", made)]).totals
    return {code: count for code, count in totals.items() if code.endswith("_shortcut")}


@pytest.mark.parametrize(
    ("chosen", "rejected", "code"),
    [
        ("{}", "抱歉，{}", "refusal_shortcut"),
        ("{}", "As an AI, {}", "refusal_shortcut"),
        ("{} ", "{}", "cue_shortcut"),
        ("- {}\n- more.", "{}", "cue_shortcut"),
        ("**{}**.", "{}", "cue_shortcut"),
        ("{}", "{} Hope this helps!", "template_shortcut"),
        ("希望如此：{}", "{}", "template_shortcut"),
    ],
)
def test_what_marks_one_side_is_found(
    tmp_path: Path, chosen: str, rejected: str, code: str
) -> None:
    assert shortcuts(tmp_path, rows(300, 0)) == {}
    assert code in shortcuts(tmp_path, rows(300, 60, chosen, rejected))
    assert code not in shortcuts(tmp_path, rows(300, 60, chosen, chosen))  # both sides have it


def test_one_model_on_one_side(tmp_path: Path) -> None:
    made = rows(100, 0)
    for i, row in enumerate(made):
        row["chosen-model"], row["rejected-model"] = (
            ("big", "small") if i % 10 else ("small", "big")
        )
    report = validate([write_jsonl(tmp_path / "in.jsonl", made)])
    assert report.totals["model_shortcut"] == 2
    found = {one.finding.found for one in report.examples["model_shortcut"]}
    assert "model 'big': on one side in 100% of the pairs, 90% of these chosen" in found
    for i, row in enumerate(made):
        row["chosen-model"], row["rejected-model"] = ("big", "small") if i % 2 else ("small", "big")
    assert "model_shortcut" not in shortcuts(tmp_path, made)


@pytest.mark.parametrize(
    ("chosen", "rejected", "pairs", "found"),
    [
        (29, 0, 100, False),  # too few to say
        (0, 30, 600, True),  # 5 % of the pairs, all on one side
        (0, 30, 601, False),
        (6, 24, 100, True),  # 80 %
        (7, 23, 100, False),
        (300, 101, 1000, False),  # right in 59.95 %
        (350, 149, 1000, True),  # right in 60.05 %
    ],
)
def test_thresholds(chosen: int, rejected: int, pairs: int, found: bool) -> None:
    assert Lean("cue", "a list", chosen, rejected, pairs).is_shortcut == found


def test_memory_is_bounded_and_what_is_frequent_survives() -> None:
    counts = Shortcuts()
    for i in range(30_000):
        good = f"Sure thing, {i:x} it is, as {i * 7919 % 65521:x} says {i:b}."
        bad = f"{i * 31 % 99991:x} or so, it may be; ask {i:o} again"
        counts.add(Record("preference", "Why?", good if i % 8 == 0 else good[12:], bad), {})
    names = {(lean.kind, lean.name) for lean in counts.leans()}
    assert ("opening", "sure thing, ") in names
    assert len(counts._alone) <= 20_000 + 2 * 30


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I’m sorry, but no.", True),
        ("对不起，我无法回答。", True),
        ("作为一个AI，我没有感情。", True),
        ("The treaty was signed in 1648, and nobody was sorry.", False),
        (f"{'长' * 120}对不起", False),  # not where an answer begins
        ("他无法来。", False),
    ],
)
def test_refusals_by_hand(text: str, refuses: bool) -> None:
    assert is_refusal(text) == refuses


def test_the_phrases_are_as_texts_are_compared() -> None:
    assert all(phrase == phrase.casefold().replace("’", "'") for phrase in REFUSALS)
    assert len(set(REFUSALS)) == len(REFUSALS)


@pytest.mark.parametrize(
    ("name", "chosen", "rejected", "codes"),
    [
        ("permissive/hh_harmless_test.jsonl.gz", 0.079, 0.0404, []),
        ("permissive/dpo_zh_demo.json", 0.0567, 0.08, ["template_shortcut"]),
        ("permissive/dpo_en_demo.json", 0.0233, 0.0267, ["template_shortcut"]),
        ("permissive/oaast_rm_zh.json", 0.0942, 0.0555, ["cue_shortcut"] * 3),
    ],
)
def test_shares_on_real_slices(
    shared_data: Path, tmp_path: Path, name: str, chosen: float, rejected: float, codes: list[str]
) -> None:
    report = tmp_path / "stats.json"
    done = CliRunner().invoke(data, ["stats", str(shared_data / name), "--report", str(report)])
    assert done.exit_code == 0, done.output
    (numbers,) = json.loads(report.read_text())
    assert numbers["label_shortcuts"]["refusals"] == {"chosen": chosen, "rejected": rejected}
    assert [one["code"] for one in numbers["label_shortcuts"]["shortcuts"]] == codes
    assert f"refusals {chosen:.1%} of chosen" in done.output


@pytest.mark.parametrize(
    ("source", "names", "wanted"),
    [
        ("alpaca_gpt4_data_zh.json", [], "CC BY-NC 4.0"),
        ("huozi.csv", [], "Apache-2.0"),
        ("beyond/rlhf-reward-single-round-trans_chinese:train", [], "no licence stated"),
        ("Anthropic/hh-rlhf", [], "MIT"),
        ("mine.jsonl", ["pku-saferlhf"], "CC BY-NC 4.0"),
        ("mine.jsonl", ["pair", "huozi_rlhf_data.csv"], "Apache-2.0"),
        ("mine.jsonl", ["pair"], ""),
        ("alpaca_zh.json", ["alpaca"], ""),  # any file may be called so
    ],
)
def test_licences_by_name(source: str, names: list[str], wanted: str) -> None:
    found = licences_of(source, names)
    assert [one.name.partition(",")[0] for one in found] == ([wanted] if wanted else [])
    assert all(one.restricted == (wanted in ("CC BY-NC 4.0", "no licence stated")) for one in found)


def test_a_card_beside_the_file_says_more_than_its_name(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlanguage:\n- zh\nlicense: cc-by-nc-4.0\n---\n# Pairs\nlicense: mit\n"
    )
    source = write_jsonl(tmp_path / "pairs.jsonl", rows(2, 0))
    report = validate([source])
    assert report.licences[str(source)] == ["cc-by-nc-4.0 (card README.md next to it)"]
    assert report.totals["licence"] == 1
    (tmp_path / "README.md").write_text("# Pairs\n\nlicense: mit\n")
    assert validate([source]).licences[str(source)] == []


def test_what_is_known_of_licences_is_printed(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "huozi_rlhf.jsonl", rows(2, 0))
    out = tmp_path / "pairs.jsonl"
    converted = CliRunner().invoke(data, ["convert", str(source), "-o", str(out)])
    assert f"licence  Apache-2.0 (huozi) of {source}" in converted.output
    for command in ("validate", "stats"):
        # the rows of the output name their source still
        assert "Apache-2.0 (huozi)" in CliRunner().invoke(data, [command, str(out)]).output
        plain = write_jsonl(tmp_path / "x.jsonl", rows(2, 0))
        assert "unknown" in CliRunner().invoke(data, [command, str(plain)]).output


def test_answers_that_a_generator_cut_are_unfinished(tmp_path: Path) -> None:
    made = rows(3, 0)
    made[1]["finish_reason"] = "length"
    made[2]["finish_reason"] = "stop"
    report = validate([write_jsonl(tmp_path / "in.jsonl", made)])
    assert [(one.where.row, one.finding.part) for one in report.examples["unfinished_answer"]] == [
        (2, "rejected")
    ]
