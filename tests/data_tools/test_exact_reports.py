"""Findings, reports and outputs as whole values, so that no part of them can change unseen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import write_jsonl

from alignment.errors import ConfigError, DataError
from data_tools.checks import CHECKS, Finding, Where
from data_tools.checks.language import language
from data_tools.checks.lengths import LengthBias
from data_tools.checks.records import record_findings
from data_tools.checks.shortcuts import Shortcuts
from data_tools.checks.texts import text_findings
from data_tools.checks.validate import validate
from data_tools.convert.chatlm import DEFECTS, merge
from data_tools.convert.output import dropped_path, table
from data_tools.convert.run import _in_order, convert
from data_tools.convert.writer import Conversion
from data_tools.formats import Record, Unusable, adapted, by_name, group_id
from data_tools.formats.advice import is_label
from data_tools.formats.mapping import parse_columns
from data_tools.formats.turns import split_implicit
from data_tools.reading import Row

LONG = "It is a long sentence about apples and pears in the garden, and it has no full stop at all"


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("record", "findings"),
    [
        (
            Record("preference", "a\ufffdb <br> c", "d\ufffd.", "e\u200b."),
            [
                Finding("replacement_char", "prompt", "a\ufffdb <br> c"),
                Finding("html", "prompt", "a\ufffdb <br> c"),
                Finding("replacement_char", "chosen", "d\ufffd."),
                Finding("zero_width_or_control", "rejected", "e\\u200b."),
            ],
        ),
        (
            Record("sft", "q\ufffd", completion="No output"),
            [
                Finding("replacement_char", "prompt", "q\ufffd"),
                Finding("sentinel_output", "completion", "No output"),
            ],
        ),
        (Record("text", text="t\ufffd."), [Finding("replacement_char", "text", "t\ufffd.")]),
        (
            Record("sft", messages=[turn("user", "q"), turn("assistant", "Yes\ufffd. " + LONG)]),
            [
                Finding("replacement_char", "messages", "Yes\ufffd. It is a lo"),
                Finding("no_final_mark", "messages", " stop at all"),
            ],
        ),
        (
            Record("sft", messages=[turn("user", "q"), turn("assistant", f"Yes. {LONG} of the")]),
            [Finding("unfinished_answer", "messages", "t all of the")],
        ),
        (
            Record("preference", "q", "Yes. " + LONG, f"Yes. {LONG} of the"),
            [
                Finding("no_final_mark", "chosen", " stop at all"),
                Finding("unfinished_answer", "rejected", "t all of the"),
                Finding("answer_is_prefix"),
            ],
        ),
        (
            Record("sft", messages=[turn("user", "q"), turn("user", "r")]),
            [Finding("role_order", "messages", "turns 1 and 2 are both of the user")],
        ),
        (
            Record("sft", messages=[turn("user", "q"), turn("assistant", "A."), turn("user", "r")]),
            [Finding("role_order", "messages", "the last turn is of the user")],
        ),
        (
            Record("preference", "How many are there?", "There are four.", "一共有四个苹果。"),
            [Finding("language_mismatch", "", "en against zh")],
        ),
        (
            Record("preference", "How many are there?", "一共有四个苹果。", "桌子上有五个梨。"),
            [Finding("language_of_prompt", "", "en asked, zh answered")],
        ),
        (
            Record("preference", "Many?", "Four.", "Go away.", margin=-1.5),
            [Finding("negative_margin", "", "-1.5")],
        ),
        (Record("preference", "Many?", "Four.", "Go away.", margin=0.0), [Finding("tie", "", "0")]),
        (Record("preference", "Many?", "Four.", "Go away.", margin=0.25), []),
    ],
)
def test_all_findings_of_a_record(record: Record, findings: list[Finding]) -> None:
    assert list(record_findings(record)) == findings


def test_special_tokens_of_a_tokenizer_are_named_by_part() -> None:
    record = Record("preference", "q", "a.", "b <X>.")
    found = list(record_findings(record, special=("<Y>", "<X>")))
    assert found == [Finding("special_token", "rejected", "<X>")]


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        (Where("a.jsonl", 0), "a.jsonl: whole file"),
        (Where("a.jsonl", 3), "a.jsonl: row 3"),
        (Where("a.jsonl", 3, 5), "a.jsonl:5 (row 3)"),
        (Where("a.jsonl", 3, 5, 7), "a.jsonl:5:7 (row 3)"),
    ],
)
def test_a_place_as_it_is_printed(where: Where, shown: str) -> None:
    assert str(where) == shown


def test_a_report_as_a_whole(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Why?", "chosen": "So it is.", "rejected": "No way at all.", "note": "x"},
        {"prompt": "How?", "chosen": "Like this.", "rejected": "a\ufffd\ufffd."},
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with source.open("a", encoding="utf-8") as file:
        file.write('{"a": NaN}\n')
    seen: list[dict[str, Any]] = []
    report = validate([source], each=lambda one: seen.append(one.as_json())).as_json()
    name = str(source)
    lost = {"source": name, "row": 2, "line": 2, "column": None, "code": "replacement_char",
            "part": "rejected", "found": "a\ufffd\ufffd."}  # fmt: skip
    broken = {"source": name, "row": 3, "line": 3, "column": 7, "code": "malformed", "part": "",
              "found": report["examples"]["malformed"][0]["found"]}  # fmt: skip
    assert broken["found"].startswith("not JSON")
    unused = {"source": name, "row": 1, "line": 1, "column": None, "code": "unused_column",
              "part": "note", "found": ""}  # fmt: skip
    assert seen == [unused, lost, broken]
    assert report.pop("inputs")[name]["bytes"] == source.stat().st_size
    licences = report.pop("licences")
    assert report == {
        "rows": {name: 3},
        "records": {name: 2},
        "encodings": {},
        "not_compared": 0,
        "length_bias": {name: {"pairs": 2, "chosen_longer": 0.5, "interval": [0.0, 1.0],
                               "mean_ratio": round((9 / 14 + 10 / 4) / 2, 3)}},
        "shortcuts": {name: {"pairs": 2, "refusals": {"chosen": 0.0, "rejected": 0.0},
                             "shortcuts": []}},
        "unused_columns": [{"source": name, "column": "note", "rows": 1}],
        "findings": [
            {"code": code, "severity": CHECKS[code].severity, "source": name, "count": 1,
             "rows": 1, "meaning": CHECKS[code].meaning}
            for code in ("malformed", "replacement_char", "unused_column")
        ],
        "examples": {"malformed": [broken], "replacement_char": [lost],
                     "unused_column": [unused]},
    }  # fmt: skip
    assert list(licences) == [name]


def test_findings_of_a_whole_file_are_of_no_row(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}?", "chosen": "A longer answer." * 2, "rejected": f"No {i}."}
            for i in range(60)]  # fmt: skip
    report = validate([write_jsonl(tmp_path / "in.jsonl", rows)])
    (bias,) = report.examples["length_bias"]
    assert (bias.where.row, bias.where.line) == (0, None)
    assert report.rows_with[str(tmp_path / "in.jsonl"), "length_bias"] == 0
    assert report.share("length_bias") == 0.0


def test_an_encoding_that_is_named_is_used(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes('{"prompt": "a", "chosen": "é.", "rejected": "ü."}\n'.encode("latin-1"))
    report = validate([path], encoding="latin-1")
    assert dict(report.totals) == {}
    assert report.encodings == {str(path): "iso8859-1 (as asked)"}


def test_label_shortcuts_as_json() -> None:
    shortcuts = Shortcuts()
    for i in range(40):
        answer = f"an answer about the thing number {i} that was asked"
        pair = Record("preference", "q", f"**{answer}**", answer)
        shortcuts.add(replace(pair, chosen="I'm sorry.") if i < 4 else pair, {})
    found = shortcuts.as_json()
    assert (found["pairs"], found["refusals"]) == (40, {"chosen": 0.1, "rejected": 0.0})
    bold = next(one for one in found["shortcuts"] if one["cue"] == "bold type")
    assert bold == {"code": "cue_shortcut", "kind": "cue", "cue": "bold type", "only_chosen": 36,
                    "only_rejected": 0, "accuracy": 0.95}  # fmt: skip


def test_a_bias_without_pairs_as_json() -> None:
    assert LengthBias().as_json() == {"pairs": 0, "chosen_longer": 0.5, "interval": [0.0, 1.0],
                                      "mean_ratio": None}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("好", "other"), ("好的", "zh"), ("one big world and мир мир мир мир мир мир мир", "other"),
     ("one big world and мир", "en")],
)  # fmt: skip
def test_one_word_or_more_words_of_other_scripts_are_no_language(text: str, wanted: str) -> None:
    assert language(text) == wanted


@pytest.mark.parametrize(("text", "found"), [("的一是", True), ("的一的", False)])
def test_gbk_as_latin_1_has_three_characters_and_a_frequent_one(text: str, found: bool) -> None:
    written = text.encode("gbk").decode("latin-1")
    assert ("mojibake" in {one.code for one in text_findings(written, "x")}) is found


def test_a_table_is_aligned_left_in_its_first_column_alone() -> None:
    assert table([("a", "b", "c"), ("long", "22", "333")]) == "a      b    c\nlong  22  333"


def test_a_csv_file_has_unix_line_ends_and_json_in_its_cells(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a, b", "label": True},
            {"prompt": "r", "completion": "c", "label": False}]  # fmt: skip
    out = tmp_path / "out.csv"
    convert([str(write_jsonl(tmp_path / "in.jsonl", rows))], out, Conversion())
    lines = out.read_bytes().decode().split("\n")
    assert lines[0].startswith("prompt,completion,label,")
    assert lines[1].startswith('q,"a, b",true,in.jsonl,1,')
    assert lines[2].startswith("r,c,false,in.jsonl,2,")
    assert lines[3:] == [""]


class Worker:
    """The end of a pipe whose other end counts what it gets."""

    def __init__(self, *answers: object) -> None:
        self.answers = iter(answers)
        self.sent: list[Any] = []

    def send(self, value: Any) -> None:
        self.sent.append(value)

    def recv(self) -> Any:
        return next(self.answers)


def test_pieces_are_numbered_through_all_workers_and_come_back_in_order() -> None:
    one, other = Worker(3, "a", 1, "c"), Worker(2, "b")
    pieces: Any = iter(["p", "q", "r"])
    workers: Any = [one, other]
    assert list(_in_order(pieces, workers, 10)) == ["a", "b", "c"]
    assert (one.sent, other.sent) == (["p", 10, "r", 15], ["q", 13])


def read(row: dict[str, Any], name: str) -> list[Record | Unusable]:
    return [one.record for one in adapted([Row("f", 1, 1, row)], forced=by_name(name))]


QUESTION = [turn("user", "q")]


@pytest.mark.parametrize(
    ("row", "name", "code", "reason"),
    [
        ({"instruction": "q", "output": "a", "history": "x"}, "alpaca", "wrong_type",
         "'history' is the string 'x', wanted a list"),
        ({"instruction": "q", "output": "a", "history": [["q", "a"], "y"]}, "alpaca", "wrong_type",
         "history[1] is the string 'y', wanted [question, answer]"),
        ({"messages": ["x"], "chosen": "a", "rejected": "b"}, "messages-ranking", "wrong_type",
         "messages[0] is the string 'x', wanted a message"),
        ({"prompt": "q", "completion": [turn("user", "r")]}, "prompt-completion", "no_answer",
         "no turn of the assistant in 'completion': nothing to learn"),
        ({"orphan": "m7"}, "oasst-tree", "no_parent",
         "the message 'm7', which it answers, is not in a tree"),
    ],
)  # fmt: skip
def test_a_refusal_has_its_code_and_reason(
    row: dict[str, Any], name: str, code: str, reason: str
) -> None:
    (found,) = read(row, name)
    assert isinstance(found, Unusable)
    assert (found.code, found.reason) == (code, reason)


def test_answers_that_repeat_the_end_of_the_conversation_leave_the_question() -> None:
    turns = [turn("user", "q"), turn("assistant", "a"), turn("user", "r"), turn("assistant", "b")]
    row = {"messages": turns, "chosen": turns[3], "rejected": turn("assistant", "c")}
    (found,) = read(row, "messages-ranking")
    assert isinstance(found, Record)
    assert (found.prompt, found.chosen) == (turns[:3], turns[3:])


def test_two_equal_conversations_share_all_but_the_answer() -> None:
    turns = [turn("user", "q"), turn("assistant", "a"), turn("user", "r"), turn("assistant", "b")]
    found = split_implicit(turns, turns)
    assert (found.prompt, found.chosen, found.rejected) == (turns[:3], turns[3:], turns[3:])


def test_a_text_beside_a_conversation_is_an_answer() -> None:
    with pytest.raises(Unusable, match="do not share a prompt") as caught:
        split_implicit("a", [turn("assistant", "a"), turn("assistant", "b")])
    assert caught.value.code == "prompt_mismatch"


def test_a_mapping_of_columns_shows_how_one_is_written() -> None:
    with pytest.raises(ConfigError, match="names no column") as caught:
        parse_columns({"prompt": ""})
    assert "prompt=question" in str(caught.value)


def alpaca(path: Path, *questions: str) -> Path:
    return write_jsonl(path, [{"instruction": q, "output": f"{q} yes"} for q in questions])


def test_all_defects_are_the_sum_of_those_named(tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl", [{"instruction": "a", "input": "b", "output": "c\\nd"}]
    )
    worse = write_jsonl(tmp_path / "worse.jsonl", [{"prompt": "a，b", "rejected": "e"}])
    written = []
    for name, defects in (("1", {"all"}), ("2", set(DEFECTS))):
        out = tmp_path / f"{name}.jsonl"
        merge([source, worse], out, defects=frozenset(defects))
        written.append(json.loads(out.read_text("utf-8")))
    assert written[0] == written[1]
    assert (written[0]["prompt"], written[0]["chosen"]) == ("a，b", "c\nd")


def test_test_files_take_their_answers_before_those_left_are_counted(tmp_path: Path) -> None:
    train, test = alpaca(tmp_path / "x.train.jsonl", "q"), alpaca(tmp_path / "x.test.jsonl", "r")
    worse = write_jsonl(tmp_path / "worse.jsonl", [{"prompt": p, "rejected": "no"} for p in "qr"])
    out = tmp_path / "out.jsonl"
    made = merge([train, test, worse], out)
    assert [(one.rows_out, dict(one.dropped)) for one in made] == [(1, {}), (1, {})]
    assert not dropped_path(out).exists()


def test_a_field_of_a_plain_pair_that_is_no_text_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": "", "chosen": 3, "rejected": "b"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with pytest.raises(DataError, match="chosen"):
        merge([source], tmp_path / "out.jsonl")


def test_texts_are_of_groups_of_their_own() -> None:
    one, other = Record("text", text="One text."), Record("text", text="Another text.")
    assert group_id(one) != group_id(other)
    assert group_id(one) == group_id(replace(one))
    chat = Record("sft", messages=[turn("user", "q"), turn("assistant", "a")])
    assert group_id(chat) == group_id(Record("sft", messages=[turn("user", "q")]))
    assert group_id(chat) != group_id(Record("sft", messages=[turn("user", "r")]))


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [("label", 1, True), ("label", " True ", True), ("is_chosen", "false", True), 
     ("label", 7, False),
     ("label", [1], False), ("prompt", 1, False), ("liked", 0, True)],
)  # fmt: skip
def test_a_label_has_the_name_and_the_values_of_one(name: str, value: object, label: bool) -> None:
    assert is_label(name, value) is label


@pytest.mark.parametrize(
    ("text", "code"),
    [(" \n", "empty_text"), ("\u200b", "empty_text"), ("(a)", ""), ("a", ""),
     ("[{'role': 'user', 'content': 'x'}]", "stringified_messages")],
)  # fmt: skip
def test_a_text_is_judged_by_its_first_character_alone_only_if_it_is_a_letter(
    text: str, code: str
) -> None:
    (found,) = read({"text": text}, "text")
    assert (found.code if isinstance(found, Unusable) else "") == code


def test_each_record_of_a_row_with_several_gets_its_system_prompt() -> None:
    answers = [{"text": one, "role": "assistant", "rank": rank, "replies": []}
               for rank, one in enumerate("ab")]  # fmt: skip
    question = {"text": "q", "role": "prompter", "replies": answers}
    row = {"message_tree_id": "t", "prompt": question, "system": "Be kind."}
    (found,) = read(row, "oasst-tree")
    assert isinstance(found, Record)
    assert found.prompt == [turn("system", "Be kind."), turn("user", "q")]


def test_refusals_on_one_side_as_json() -> None:
    shortcuts = Shortcuts()
    for i in range(40):
        shortcuts.add(Record("preference", "q", f"{i} it is", f"I'm sorry, {i} {i * i}"), {})
    refusal = next(one for one in shortcuts.as_json()["shortcuts"] if one["kind"] == "refusal")
    assert refusal == {"code": "refusal_shortcut", "kind": "refusal", "cue": "a refusal",
                       "only_chosen": 0, "only_rejected": 40, "accuracy": 1.0}  # fmt: skip
