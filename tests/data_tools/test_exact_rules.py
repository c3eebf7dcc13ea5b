"""Exact results of single rules of formats, checks and conversion, on rows written here.

Each test fails for a change of one rule that the tests on real slices do not notice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftfy
import pytest
from support import write_jsonl

from data_tools.checks import Finding, failing
from data_tools.checks.records import record_findings
from data_tools.checks.texts import text_findings
from data_tools.checks.validate import validate
from data_tools.convert.repairs import Repairs
from data_tools.convert.run import convert
from data_tools.convert.writer import Conversion
from data_tools.formats import Pairing, Record, Unusable, detect, examples, group_id, pairs_of
from data_tools.formats.detect import detect_each

if TYPE_CHECKING:
    from data_tools.convert.output import Summary

Row = dict[str, Any]


def user(content: str) -> Row:
    return {"role": "user", "content": content}


def assistant(content: str) -> Row:
    return {"role": "assistant", "content": content}


def records(tmp_path: Path, rows: list[Row], format: str | None = None) -> list[Record | Unusable]:
    path = write_jsonl(tmp_path / "in.jsonl", rows)
    return [example.record for example in examples(path, format=format)]


def run(tmp_path: Path, rows: list[Row], **options: Any) -> tuple[Summary, list[Row]]:
    repairs = options.pop("repairs", None)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out.jsonl"
    (summary,) = convert([str(source)], out, Conversion(**options), repairs=repairs)
    return summary, [json.loads(line) for line in out.read_text("utf-8").splitlines()]


# Formats


def test_each_row_of_a_batch_is_known_by_its_own_values() -> None:
    plain = {"instruction": "Why?", "output": "So."}
    belle = {"instruction": "Human: Why?\nAssistant:", "output": "So."}
    for batch in ([plain, belle, plain], [belle, plain, belle]):
        found = [one.name for one in detect_each(batch) if not isinstance(one, Unusable)]
        assert found == [detect(row).name for row in batch]
        assert set(found) == {"alpaca", "belle"}


def test_rows_of_a_batch_that_fit_two_formats_or_none_are_named_each() -> None:
    dialogue = "\n\nHuman: q\n\nAssistant: a"
    two = {
        "instruction": "q",
        "output_1": "a",
        "output_2": "b",
        "preference": 1,
        "response_j": "a",
        "response_k": "b",
        "question": "q",
    }
    for row, code in ((two, "two_formats"), ({"a": 1}, "unknown_format")):
        found = detect_each([row, dict(row)])
        assert [one.code for one in found if isinstance(one, Unusable)] == [code, code]
    # two formats that look into the values, of which one row fits the one, the next the other
    split = {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "a", "rejected": "b"}
    whole = {"prompt": "q", "chosen": dialogue, "rejected": dialogue}
    found = detect_each([split, whole, split])
    assert [one.name for one in found if not isinstance(one, Unusable)] == [
        "hh-split",
        "pair",
        "hh-split",
    ]


@pytest.mark.parametrize(("label", "margin"), [(1, -3.0), (0, 3.0)])
def test_shp_keeps_a_margin_that_contradicts_its_label(
    tmp_path: Path, label: int, margin: float
) -> None:
    row = {
        "history": "q",
        "human_ref_A": "a",
        "human_ref_B": "b",
        "labels": label,
        "score_A": 2,
        "score_B": 5,
    }
    (record,) = records(tmp_path, [row])
    assert isinstance(record, Record)
    assert (record.chosen, record.margin) == ("a" if label else "b", margin)
    assert ("negative_margin" in validate([tmp_path / "in.jsonl"]).totals) == (margin < 0)


def test_an_answer_without_a_rating_is_counted(tmp_path: Path) -> None:
    rated = [
        {"response": text, "annotations": {"honesty": {"Rating": rating}}}
        for text, rating in (("a", "5"), ("b", "N/A"), ("c", "2"))
    ]
    row = {"instruction": "q", "completions": rated}
    ranked, unrated = records(tmp_path, [row])
    assert isinstance(ranked, Record)
    assert (ranked.answers, ranked.scores) == (("a", "c"), (5.0, 2.0))
    assert isinstance(unrated, Unusable)
    assert (unrated.code, unrated.reason) == ("unrated", "completions[1] has no rating")
    summary, made = run(tmp_path, [row])
    assert (len(made), summary.dropped) == (1, {"unrated": 1})


def test_helpsteer_gathers_all_adjacent_answers_to_a_prompt(tmp_path: Path) -> None:
    prompts = ["q", "q", "q", "r", "r", "q"]
    rows = [
        {"prompt": prompt, "response": f"a{i}", "helpfulness": i, "correctness": 0}
        for i, prompt in enumerate(prompts)
    ]
    found = records(tmp_path, rows)
    ranked = [one for one in found if isinstance(one, Record)]
    assert [(one.prompt, one.answers) for one in ranked] == [
        ("q", ("a0", "a1", "a2")),
        ("r", ("a3", "a4")),
    ]
    assert isinstance(found[2], Unusable)
    assert found[2].code == "one_answer"


def test_scored_texts_of_two_prompts_are_no_ranking(tmp_path: Path) -> None:
    texts = ["Why?\n\nAssistant: So.", "How?\n\nAssistant: Thus."]
    (record,) = records(tmp_path, [{"text": texts, "score": [1, 2]}])
    assert isinstance(record, Unusable)
    assert (record.code, record.reason) == ("prompt_mismatch", "the texts do not share one prompt")


def test_a_reply_that_is_no_message_is_named(tmp_path: Path) -> None:
    prompt = {"role": "prompter", "text": "q", "replies": ["a lost string"]}
    (record,) = records(tmp_path, [{"message_tree_id": "1", "prompt": prompt}])
    assert isinstance(record, Unusable)
    assert record.code == "wrong_type"
    assert record.reason.startswith("'replies' is the string 'a lost string'")


def test_every_name_of_a_role_is_read(tmp_path: Path) -> None:
    names = {
        "human": "user",
        "prompter": "user",
        "gpt": "assistant",
        "bot": "assistant",
        "model": "assistant",
        "chatgpt": "assistant",
        "function_call": "assistant",
        "observation": "tool",
        "function": "tool",
        "Assistant": "assistant",
        "system": "system",
        "developer": "developer",
    }
    turns = [{"from": name, "value": "x"} for name in names]
    (record,) = records(tmp_path, [{"conversations": turns}])
    assert isinstance(record, Record)
    assert [turn["role"] for turn in record.messages or []] == list(names.values())


def test_texts_are_split_at_the_last_marker_of_an_answer(tmp_path: Path) -> None:
    head = "\n\nUser: q\n\nAssistant: a\n\nUser: r\n\nAssistant:"
    (record,) = records(tmp_path, [{"chosen": f"{head} good", "rejected": f"{head} bad"}])
    assert isinstance(record, Record)
    assert (record.prompt, record.chosen, record.rejected) == (head, " good", " bad")


def test_texts_that_differ_before_the_answer_share_no_prompt(tmp_path: Path) -> None:
    row = {"chosen": "Why?\n\nAssistant: So.", "rejected": "How?\n\nAssistant: Thus."}
    (record,) = records(tmp_path, [row])
    assert isinstance(record, Unusable)
    assert record.code == "prompt_mismatch"
    assert record.reason == "chosen and rejected do not share the prompt"


# Pairing and conversion


def test_a_margin_of_exactly_the_least_is_wide_enough(tmp_path: Path) -> None:
    ranked = Record("ranked", "q", answers=("a", "b", "c"), scores=(3.0, 2.0, 0.5))
    pairs, dropped = pairs_of(ranked, Pairing("adjacent", min_margin=1.0))
    assert [pair.margin for pair in pairs] == [1.0, 1.5]
    assert dropped == []
    (wide, dropped) = pairs_of(ranked, Pairing("adjacent", min_margin=1.25))
    assert ([pair.margin for pair in wide], [why.code for why in dropped]) == (
        [1.5],
        ["min_margin"],
    )


def test_a_least_margin_drops_pairs_of_unknown_margin(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    summary, made = run(tmp_path, rows, to="pairs", pairing=Pairing(min_margin=0.5))
    assert (made, summary.dropped) == ([], {"no_margin": 1})


def test_every_pair_over_the_cap_is_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "completion": f"{label} {i}", "label": label}
        for label in (True, False)
        for i in range(3)
    ]
    for most, over in ((4, 5), (8, 1), (9, 0)):
        summary, made = run(tmp_path, rows, to="pairs", pairing=Pairing(max_pairs=most))
        assert (len(made), summary.dropped["over_cap"]) == (most, over)


def test_a_group_is_known_by_what_is_asked_alone(tmp_path: Path) -> None:
    asked = [user("q"), assistant("earlier"), user("r")]
    one, other = (Record("sft", messages=[*asked, assistant(text)]) for text in ("a", "b"))
    elsewhere = Record("sft", messages=[user("q"), assistant("earlier"), user("s"), assistant("a")])
    assert group_id(one) == group_id(other) != group_id(elsewhere)
    _, made = run(tmp_path, [{"messages": one.messages}, {"messages": other.messages}])
    assert {row["group_id"] for row in made} == {group_id(one)}


@pytest.mark.parametrize(
    ("chosen", "rejected", "equal"),
    [
        ("same", "same", True),
        ("same", " same\n", True),
        ("\n同", "同", True),
        ("same", "sa me", False),
        ("same", "other", False),
        ([assistant("same")], [assistant("same ")], True),
        ([assistant("same")], [assistant("other")], False),
    ],
)
def test_pairs_that_differ_in_outer_space_alone_are_dropped(
    tmp_path: Path, chosen: Any, rejected: Any, equal: bool
) -> None:
    prompt = "q" if isinstance(chosen, str) else [user("q")]
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    summary, made = run(tmp_path, [row])
    assert (len(made), summary.dropped) == (0, {"chosen_eq_rejected": 1}) if equal else (1, {})


# Repairs


def test_placeholders_are_emptied_in_rows_of_the_alpaca_family_alone(tmp_path: Path) -> None:
    repairs = Repairs(strip_sentinels=True)
    alpaca = {"instruction": "q", "input": "No input.", "output": "a"}
    pair = {"prompt": "q", "chosen": "a", "rejected": "b", "input": "No input."}
    adapters = {row["input"] + str(len(row)): detect(row) for row in (alpaca, pair)}
    assert {one.name for one in adapters.values()} == {"alpaca", "pair"}
    assert repairs(alpaca, detect(alpaca)) == {**alpaca, "input": ""}
    assert repairs(pair, detect(pair)) == pair
    assert repairs.counts == {"strip_sentinels": 1}


def test_a_literal_backslash_n_is_a_newline_in_huozi_rows_alone() -> None:
    repairs = Repairs(decode_backslash_n=True)
    huozi = {"prompt": "q", "chosen": r"a\n1", "reject": "b"}
    pair = {"prompt": "q", "chosen": r"a\n1", "rejected": "b"}
    assert repairs(huozi, detect(huozi)) == {**huozi, "chosen": "a\n1"}
    assert repairs(pair, detect(pair)) == pair
    assert repairs.counts == {"decode_backslash_n": 1}


@pytest.mark.parametrize(
    "kept",
    [
        "“curly” and ‘quotes’",
        "ｆｕｌｌ width，。：",
        "&lt;b&gt; and &amp;",
        "ﬁ and ﬀ",
        "a\r\nb",
        "e\u0301",
        "\x1b[31mred",
        "a\x0bb",
        "\ufeffmark",
        "\ud83d\ude00",
    ],
)
def test_mojibake_is_undone_and_nothing_else_is_changed(kept: str) -> None:
    repairs = Repairs(fix_mojibake=True)
    broken = "cafÃ©"
    row = {"prompt": f"{broken} {kept}", "chosen": kept, "rejected": "b"}
    assert repairs(row, detect(row)) == {**row, "prompt": f"café {kept}"}
    assert repairs.counts == {"fix_mojibake": 1}
    assert ftfy.fix_text(kept + broken) != f"{kept}café"  # its defaults change more


# Checks


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        (["user", "assistant", "user"], "the last turn is of the user"),
        (["user", "assistant", "tool"], "the last turn is of the tool"),
        (["user", "assistant"], None),
        (["assistant", "assistant"], "turns 1 and 2 are both of the assistant"),
    ],
)
def test_a_conversation_ends_in_an_answer(roles: list[str], found: str | None) -> None:
    record = Record("sft", messages=[{"role": role, "content": "Fine."} for role in roles])
    wanted = [Finding("role_order", "messages", found)] if found else []
    assert list(record_findings(record)) == wanted


@pytest.mark.parametrize(
    "shape",
    [
        lambda prompt: {"prompt": prompt, "chosen": "Yes.", "rejected": "No."},
        lambda prompt: {"prompt": [user(prompt)], "completion": [assistant("Yes.")]},
        lambda prompt: {"messages": [user(prompt), assistant(f"Yes to {prompt}.")]},
    ],
    ids=["pair", "prompt and completion", "messages"],
)
def test_prompts_repeat_whatever_their_case_spaces_and_width(tmp_path: Path, shape: Any) -> None:
    rows = [shape(text) for text in ("How  many ABC?", "how many ａｂｃ? ", "How few ABC?")]
    report = validate([write_jsonl(tmp_path / "in.jsonl", rows)])
    assert report.totals["duplicate_prompt"] == 1
    assert [one.where.row for one in report.examples["duplicate_prompt"]] == [2]


def test_a_pair_of_equal_answers_contradicts_nothing(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "chosen": "Yes.", "rejected": "yes. "},
        {"prompt": "q", "chosen": "No.", "rejected": "Never."},
    ]
    totals = validate([write_jsonl(tmp_path / "in.jsonl", rows)]).totals
    assert dict(totals) == {"chosen_eq_rejected_normalised": 1, "duplicate_prompt": 1}


SECRETS = [
    "AKIA" + "ABCDEFGH12345678",
    *(f"gh{kind}_" + "a1B2" * 9 for kind in "pousr"),
    "github_pat_" + "11ABCDEFG0" * 5 + "_x",
    "sk-" + "proj_Ab1-" * 3,
    "hf_" + "AbCdEfGhIj" * 3,
    "hf_" + "AbCdEfGhIj" * 3 + "KlMn",
    "AIza" + "Sy_-aB1" * 5,
    *(f"xox{kind}-1234567890" for kind in "abprs"),
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----",
]
NO_SECRETS = [
    "AKIA" + "ABCDEFGH1234567",
    "BAKIA" + "ABCDEFGH12345678",
    "gha_" + "a1B2" * 9,
    "ghp_" + "a1B2" * 8,
    "github_pat_short",
    "sk-learn is a library",
    "task-" + "ab" * 20,
    "hf_hub_download",
    "AIza is short",
    "xoxo-1234567890",
    "-----BEGIN PUBLIC KEY-----",
]


@pytest.mark.parametrize("text", SECRETS)
def test_every_kind_of_secret_is_found_and_masked(text: str) -> None:
    (finding,) = text_findings(f"Use {text} here.", "prompt")
    assert (finding.code, finding.part) == ("secret", "prompt")
    assert set(finding.found) & set("abcdefghABCDEFGH0123456789") == set()


@pytest.mark.parametrize("text", NO_SECRETS)
def test_what_only_looks_like_a_secret_is_none(text: str) -> None:
    assert "secret" not in {finding.code for finding in text_findings(f"Use {text} here.", "x")}


def test_of_two_severities_the_milder_one_decides() -> None:
    found = ["html", "tie", "secret"]  # info, warn, error
    assert failing(found, ["info", "warn"]) == failing(found, ["warn", "info"]) == sorted(found)
    assert failing(found, ["warn", "error"]) == ["secret", "tie"]
    assert failing(found, ["error", "html"]) == ["html", "secret"]
