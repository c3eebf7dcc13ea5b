"""Columns: what every format reads, what is counted, and how they are named by the user."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support import prepare_rows, write_jsonl

from alignment.errors import ConfigError
from alignment.runs import Source
from data_tools.checks.validate import validate
from data_tools.cli import data
from data_tools.formats import (
    BY_NAME,
    Example,
    Record,
    Unusable,
    adapted,
    examples,
    parse_columns,
)
from data_tools.formats.advice import columns_advice, hint
from data_tools.formats.columns import texts_in
from data_tools.formats.read import adapted_batches
from data_tools.formats.record import CONTEXT
from data_tools.reading import Row
from data_tools.shapes import load_records, serve

Json = dict[str, Any]
U, A, B = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"),
                                                  ("assistant", "b")))  # fmt: skip
S = {"role": "system", "content": "s"}
#: One row of each kind of format, with the columns that it reads.
SHAPES: dict[str, Json] = {
    "text": {"text": "some text"},
    "prompt": {"prompt": "q"},
    "prompt-completion": {"question": "q", "answer": "a"},
    "alpaca": {"instruction": "q", "output": "a"},
    "messages": {"messages": [U, A]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    },
    "unpaired": {"prompt": "q", "completion": "a", "label": True},
    "kto-alpaca": {"instruction": "q", "output": "a", "kto_tag": False},
    "kto-messages": {"messages": [U, A], "label": 1},
    "pair": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "pair of turns": {"prompt": [U], "chosen": [A], "rejected": [B]},
    "alpaca-ranking": {"instruction": "q", "chosen": "a", "rejected": "b"},
    "sharegpt-ranking": {"conversations": [U], "chosen": "a", "rejected": "b"},
    "messages-ranking": {"messages": [U], "chosen": "a", "rejected": "b"},
    "ms-swift": {"messages": [U, A], "rejected_response": "b"},
    "implicit": {"chosen": [U, A], "rejected": [U, B]},
    "pku-saferlhf": {
        "prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0,
    },
    "scored": {"prompt": "q", "responses": ["a", "b"], "scores": [2, 1]},
}  # fmt: skip


def read(row: Json, name: str = "") -> Example:
    forced = BY_NAME[name] if name else None
    return next(iter(adapted([Row("in.jsonl", 1, 1, row)], forced=forced)))


def turns_of(record: Record) -> list[Json]:
    """What a model is given before the first answer, as turns."""
    turns = record.messages if record.messages is not None else record.prompt
    return [{"role": "user", "content": turns}] if isinstance(turns, str) else turns


def said(record: Record) -> str:
    return " ".join(texts_in([getattr(record, name) for name in (
        "text", "prompt", "chosen", "rejected", "completion", "messages", "template_kwargs",
    )] + [list(record.answers), record.tools]))  # fmt: skip


ANSWERED = [name for name in SHAPES if name != "text"]


@pytest.mark.parametrize("shape", ANSWERED)
@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_a_system_prompt_comes_first_in_every_format(shape: str, column: str) -> None:
    record = read({**SHAPES[shape], column: "s"}).record
    assert isinstance(record, Record)
    assert turns_of(record)[:2] == [S, U]
    assert isinstance(record.chosen, list) == (record.kind == "preference")


@pytest.mark.parametrize("shape", ANSWERED)
@pytest.mark.parametrize(
    "history",
    [[["h", "i"]], '[["h", "i"]]', [{"role": "user", "content": "h"}, {**A, "content": "i"}]],
)
def test_history_comes_before_the_question_in_every_format(shape: str, history: Any) -> None:
    record = read({**SHAPES[shape], "history": history, "system": "s"}).record
    assert isinstance(record, Record)
    earlier = [{"role": "user", "content": "h"}, {"role": "assistant", "content": "i"}]
    assert turns_of(record)[:4] == [S, *earlier, U]


@pytest.mark.parametrize("shape", ANSWERED)
def test_an_input_is_part_of_the_question_or_is_refused(shape: str) -> None:
    record = read({**SHAPES[shape], "input": "given"}).record
    if isinstance(record, Record):
        assert turns_of(record)[0] == {"role": "user", "content": "q\ngiven"}
    else:
        assert str(record).startswith("'input' has no place in")
        assert any(isinstance(value, list) for value in SHAPES[shape].values())


@pytest.mark.parametrize("shape", ["alpaca", "prompt", "prompt-completion", "unpaired", "pair"])
def test_a_context_is_part_of_the_question(shape: str) -> None:
    for row, wanted in (
        ({"context": "given"}, "q\ngiven"),
        ({"input": "in", "context": "given"}, "q\nin\ngiven"),
        ({"context": "q"}, "q"),  # the question has it already
    ):
        record = read({**SHAPES[shape], **row}).record
        assert isinstance(record, Record)
        assert record.prompt == wanted
    found = read({**SHAPES[shape], "context": {"sentences": ["given"]}}).record
    assert isinstance(found, Unusable)
    assert found.code == "wrong_type"


def test_an_input_without_an_instruction_is_the_whole_question() -> None:
    record = read({"instruction": "", "input": "given", "output": "a"}).record
    assert isinstance(record, Record)
    assert record.prompt == "given"


@pytest.mark.parametrize("column", ["passage", "source_document", "background", "背景"])
def test_what_a_question_is_about_is_refused_by_name(column: str) -> None:
    row = {**SHAPES["prompt-completion"], column: "given"}
    found = read(row).record
    assert isinstance(found, Unusable)
    assert (found.code, str(found)[: len(column) + 2]) == ("not_used", repr(column))
    columns = parse_columns(shlex.split(found.remedy.partition("--columns ")[2])[0].strip(";"))
    (used,) = (one for batch in adapted_batches([[Row("in.jsonl", 1, 1, row)]], columns=columns)
               for one in batch)  # fmt: skip
    assert isinstance(used.record, Record)
    assert (used.record.prompt, used.unused) == ("q\ngiven", ())
    assert read(row, "prompt-completion").unused == (column,)
    assert "join it" in getattr(read({**row, column: ["given"]}).record, "remedy", "")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("column", ["images", "image", "videos", "audios"])
def test_media_is_refused_by_name_in_every_format(shape: str, column: str) -> None:
    assert str(read({**SHAPES[shape], column: ["a.png"]}).record).startswith(f"{column!r} holds")
    for empty in ([], "", "[]", None):  # a table has an empty list as text
        assert isinstance(read({**SHAPES[shape], column: empty}).record, Record)


@pytest.mark.parametrize("shape", SHAPES)
def test_empty_columns_change_nothing(shape: str) -> None:
    empty: Json = dict.fromkeys(CONTEXT, "") | {"history": [], "tools": None, "images": None}
    assert read({**empty, **SHAPES[shape]}).record == read(SHAPES[shape]).record


@pytest.mark.parametrize("name", ["prompt-completion", "unpaired", "messages", "sharegpt"])
def test_thoughts_belong_to_the_one_answer(name: str) -> None:
    record = read({**SHAPES[name], "reasoning_content": "hm"}).record
    assert isinstance(record, Record)
    answer = record.messages if record.messages is not None else record.completion
    assert answer[-1] == {"reasoning_content": "hm", **A}


def test_thoughts_of_a_pair_belong_to_neither_side() -> None:
    record = read({**SHAPES["pair"], "reasoning_content": "hm"}).record
    assert str(record) == "'reasoning_content' has no place in several answers"


def test_two_system_prompts_must_agree() -> None:
    agreed = read({"system": "s", "messages": [S, U, A]}).record
    assert isinstance(agreed, Record)
    assert agreed.messages == [S, U, A]
    answered = {"prompt": "q", "answer": "a"}
    differing = {"system": "s", "system_prompt": "t", **answered}
    for row in ({"system": "t", "messages": [S, U, A]}, differing):
        found = read(row).record
        assert isinstance(found, Unusable)
        assert found.code == "two_systems"


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ({"weight": 0.5}, "wrong_type"),
        ({"loss_weight": "0"}, "wrong_type"),
        ({"images": ["a.png"]}, "not_text"),
    ],
)
def test_a_key_of_a_turn_that_cannot_be_used_is_refused(turn: Json, code: str) -> None:
    found = read({"messages": [U, {**A, **turn}]}).record
    assert isinstance(found, Unusable)
    assert found.code == code


@pytest.mark.parametrize(
    ("turn", "kept"),
    [
        ({"loss_weight": 0.0}, {"weight": 0}),
        ({"loss_weight": 1.0}, {}),
        ({"train": False}, {"train": False}),
        ({"reasoning": "hm"}, {"reasoning": "hm"}),
        (
            {"function_call": {"name": "f", "arguments": "{}"}},
            {
                "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": "{}"}},
                ]
            },
        ),
    ],
)
def test_keys_of_turns_that_change_what_is_learned_are_kept(turn: Json, kept: Json) -> None:
    record = read({"messages": [U, {**A, **turn}]}).record
    assert isinstance(record, Record)
    assert record.messages == [U, {**A, **kept}]


@pytest.mark.parametrize(
    ("label", "wanted"),
    [(1, True), (0, False), (1.0, True), ("1", True), ("0", False), ("True", True),
     ("False", False), (" yes ", True), ("no", False), (True, True), (False, False)],
)  # fmt: skip
@pytest.mark.parametrize("shape", ["unpaired", "kto-alpaca", "kto-messages"])
def test_labels(shape: str, label: Any, wanted: bool) -> None:
    row = dict(SHAPES[shape])
    row["kto_tag" if "kto_tag" in row else "label"] = label
    record = read(row).record
    assert isinstance(record, Record)
    assert (record.kind, record.label) == ("unpaired", wanted)


@pytest.mark.parametrize("label", ["", "maybe", None, 2, -1, 0.5, [1], [], {"good": 1}])
@pytest.mark.parametrize("shape", ["unpaired", "kto-alpaca", "kto-messages"])
def test_a_label_that_says_nothing_is_refused_and_never_an_answer_to_learn(
    shape: str, label: Any
) -> None:
    row = dict(SHAPES[shape])
    row["kto_tag" if "kto_tag" in row else "label"] = label
    example = read(row)
    assert isinstance(example.record, Unusable)
    assert "wanted true or false" in str(example.record)


UNKNOWN: list[tuple[Json, Json]] = [
    (
        {"ask": "q", "winner_text": "a", "loser_text": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    ({"prompt": "q", "best": "a", "worst": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}),
    ({"提问": "q", "优": "a", "劣": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}),
    ({"text": "q", "reply": "a"}, {"prompt": "q", "completion": "a"}),
    ({"foo": "q", "bar baz": "a"}, {"prompt": "q", "completion": "a"}),
    (
        {"prompt": "q", "answers": [{"text": "a"}, {"text": "b"}]},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    ({"messages": [U], "solution": "a"}, {"messages": [U, A]}),
    (
        {"messages": [U, A], "bad_answer": "b"},
        {"prompt": [U], "chosen": [A], "rejected": [B]},
    ),
    (
        {"prompt": "q", "response": "a", "rejected_answer": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    ({"source": "q", "target": "a"}, {"prompt": "q", "completion": "a"}),
    ({"user": "q", "assistant": "a"}, {"prompt": "q", "completion": "a"}),
    (
        {"prompt": "q", "completion": "a", "is_good": False},
        {"prompt": "q", "completion": "a", "label": False},
    ),
    (
        {"prompt": "q", "response_a": "a", "response_b": "b", "winner": "model_a"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    (
        {"prompt": "q", "chosen": "a", "rejected": ["b", "c"]},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    ({"question": "q", "answer": "a", "label": "math"}, {"prompt": "q", "completion": "a"}),
]


@pytest.mark.parametrize(("row", "wanted"), UNKNOWN)
def test_the_advice_works_when_it_is_followed(row: Json, wanted: Json, tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl"
    command = ["convert", str(source), "-o", str(out)]
    refused = CliRunner().invoke(data, command)
    assert refused.exit_code == 2, refused.output
    assert all(repr(name) in refused.output for name in row)
    advice = refused.output.partition("--columns ")[2].splitlines()[0]
    done = CliRunner().invoke(data, [*command, "--columns", shlex.split(advice)[0]])
    assert done.exit_code == 0, done.output
    made = json.loads(out.read_text("utf-8"))
    assert {key: made[key] for key in made if key in {*wanted, "prompt"}} == wanted
    report = validate([source], columns=parse_columns(shlex.split(advice)[0]))
    assert report.records.total() == 1


WORD = st.text(st.characters(categories=["Ll", "Lo"]), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(WORD, st.text(min_size=1, max_size=6).filter(str.strip), min_size=1,
                       max_size=4))  # fmt: skip
def test_any_texts_can_be_named_by_the_option_that_is_advised(row: dict[str, str]) -> None:
    advice = columns_advice(row)
    if not advice:
        return
    columns = parse_columns(shlex.split(advice.partition("--columns ")[2])[0])
    assert columns.adapter is not None
    renamed = columns.renamed(row)
    assert row.keys() >= set(columns.parts.values())
    example = read(renamed, columns.adapter.name)
    assert isinstance(example.record, Record | Unusable)
    used = {value.strip() for value in renamed.values()}
    assert used == {value.strip() for value in row.values()}


@settings(max_examples=300, deadline=None)
@given(shape=st.sampled_from(sorted(SHAPES)), extra=st.dictionaries(
    WORD, st.text(min_size=1, max_size=40).filter(str.strip), max_size=4))  # fmt: skip
def test_a_text_is_used_or_its_column_is_named(shape: str, extra: dict[str, str]) -> None:
    row = {**extra, **SHAPES[shape]}
    example = read(row)
    if isinstance(example.record, Unusable):
        assert any(repr(name) in str(example.record) for name in extra)
        return
    text = said(example.record)
    for name, value in extra.items():
        if name not in SHAPES[shape] and value.strip() not in ("[]", "{}", "null"):
            assert name in example.unused or value.strip() in text


def test_columns_may_be_a_mapping() -> None:
    given = {"prompt": "question, as asked", "answer": 0}
    assert parse_columns(given).parts == {"prompt": "question, as asked", "completion": "0"}
    assert parse_columns({"prompt": "q"}) == parse_columns("prompt=q")
    for wrong in (None, "", ["a"], True, {"a": "b"}):
        with pytest.raises(ConfigError, match="'prompt' names no column"):
            parse_columns({"prompt": wrong})


def test_unused_columns_are_counted_by_convert_validate_show_and_the_stages(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "note": "n", "n": 3, "empty": " "}
    other = {**row, "prompt": "r", "note": "", "meta": {"by": ["x"]}}
    source = write_jsonl(tmp_path / "in.jsonl", [row, row, other])
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(data, ["convert", str(source), "-o", str(out)])
    assert "  not used         1  meta\n  not used         2  note\n" in done.output
    shown = CliRunner().invoke(data, ["show", str(source)])
    assert "not used: note\n" in shown.output
    checked = CliRunner().invoke(data, ["validate", str(source)])
    assert "not used: 'meta', in 1 rows of in.jsonl\nnot used: 'note', in 2 rows" in checked.output
    found = tmp_path / "found.jsonl"
    CliRunner().invoke(data, ["validate", str(source), "--findings", str(found)])
    unused = [
        row
        for row in map(json.loads, found.read_text("utf-8").splitlines())
        if row["code"] == "unused_column"
    ]
    assert [(row["line"], row["part"]) for row in unused] == [(1, "note"), (2, "note"), (3, "meta")]
    names = [one.unused for one in serve(source, kind="unpaired")]
    assert names == [("note",), (), ("note",), (), ("meta",), ()]
    assert [one.unused for one in serve(source, kind="sft")] == [
        ("note", "rejected"), ("note", "rejected"), ("meta", "rejected"),
    ]  # fmt: skip
    # what `convert` adds is no text of the source
    again = CliRunner().invoke(data, ["convert", str(out), "-o", str(tmp_path / "again.jsonl")])
    assert "not used" not in again.output


def test_the_record_of_a_stage_has_its_unused_columns(tiny_dir: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a", "rating": 4.5, "note": n} for n in ("n", "")]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    prepared, _ = prepare_rows("sft", tiny_dir, [source])
    inputs = Source(**json.loads(json.dumps(asdict(prepared.inputs()["train"][0]))))
    assert inputs.unused == {"note": 1, "rating": 2}


def test_what_repeats_the_answers_is_not_lost() -> None:
    row = {"prompt": "q", "chosen": [U, A], "rejected": [U, B], "messages": [U, A], "question": "q"}
    assert read(row).unused == ()
    long = "a long text that is a part of the question"
    assert read({"prompt": f"Is {long}?", "answer": "a", "topic_text": long}).unused == ()
    assert read({"prompt": "Is 4 even?", "answer": "a", "note": "4"}).unused == ("note",)
    assert read({"messages": [{**U, "note": "n"}, A]}).unused == ("messages[].note",)


def test_a_list_of_answers_is_a_ranking_only_by_name(tmp_path: Path) -> None:
    row = {"instruction": "q", "output": ["a", "b"]}
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    for kind in ("sft", "preference", "unpaired"):
        (error,) = failed(source, kind)
        assert error.startswith(f"{source}:1: 'output' is a list of answers, and nothing says")
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert list(load_records(source, kind="preference", format="alpaca-ranked")) == [pair]
    known = source.rename(tmp_path / "oaast_rm.jsonl")
    assert list(load_records(known, kind="preference")) == [pair]


def failed(source: Path, kind: str) -> list[str]:
    errors: list[Exception] = []
    assert list(serve(source, kind=kind, on_error=errors.append)) == []
    return [str(error) for error in errors]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("chosen", "columns: 'chosen' is not PART=COLUMN"),
        ("winner=a", "columns: 'winner' is no part"),
        ("prompt=a,question=b", "columns: 'prompt' is named twice"),
        (",", "columns: no part is named"),
    ],
)
def test_an_option_that_names_no_columns_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_columns(given)
    assert str(caught.value).startswith(message)


def test_named_columns_hide_others_of_their_names(tmp_path: Path) -> None:
    row = {"prompt": "an id", "input": "q", "chosen": "x", "good": "a", "bad": "b"}
    source = write_jsonl(tmp_path / "in.jsonl", [row, {"prompt": "p"}])
    columns = parse_columns("prompt=input,chosen=good,rejected=bad")
    one, other = examples(source, columns=columns)
    assert isinstance(one.record, Record)
    assert (one.record.prompt, one.record.chosen, one.record.rejected) == ("q", "a", "b")
    assert one.unused == ("<prompt>", "<chosen>")
    assert str(other.record) == "no column 'input' for 'prompt': the row has 'prompt'"


def test_a_part_may_be_named_for_a_row_that_has_the_others(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "q", "chosen": "a", "bad": "b"}])
    (one,) = examples(source, columns=parse_columns("rejected=bad"))
    assert isinstance(one.record, Record)
    assert (one.record.kind, one.record.rejected) == ("preference", "b")


def test_hints() -> None:
    assert [hint(name) for name in ("answer_good", "badAnswer", "question", "outputs", "zz")] == [
        "chosen", "rejected", "prompt", "completion", None,
    ]  # fmt: skip


def test_a_stage_of_text_is_advised_to_name_its_text(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"title": "t", "content": "some text"}])
    (error,) = failed(source, "text")
    assert error.endswith("name the parts, as in --columns text=content")
    named = list(serve(source, kind="text", columns=parse_columns("text=content")))
    assert [(one.record.text, one.unused) for one in named] == [("some text", ("title",))]


def test_a_template_variable_that_is_not_read_is_named(tmp_path: Path, tiny_dir: Path) -> None:
    row = {"messages": [U, A], "chat_template_kwargs": {"enable_thinking": False}}
    rows, _ = prepare_rows("sft", tiny_dir, [write_jsonl(tmp_path / "in.jsonl", [row])])
    (source,) = rows.by_role["train"].sources
    assert source.unused == {"chat_template_kwargs.enable_thinking": 1}


def test_prompts_that_lose_their_answers_are_counted(tmp_path: Path) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", [SHAPES["pair"]]), tmp_path / "out.jsonl"
    command = ["convert", str(source), "-o", str(out), "--to", "prompts"]
    printed = CliRunner().invoke(data, command).output
    assert "  1 rows written without their answers, as prompts\n" in printed


def test_a_stage_learns_the_same_of_rows_and_of_what_they_are_converted_to(
    tmp_path: Path, tiny_dir: Path
) -> None:
    """Of a prompt with earlier answers, only the last answer is learned."""
    pair = {"prompt": [U, B, U], "chosen": [A], "rejected": [B]}
    source, out = write_jsonl(tmp_path / "in.jsonl", [pair]), tmp_path / "out.jsonl"
    CliRunner().invoke(data, ["convert", str(source), "-o", str(out), "--to", "sft"])
    learned = [prepare_rows("sft", tiny_dir, [file])[0].by_role["train"] for file in (source, out)]
    assert learned[0].learned == learned[1].learned
    assert sum(learned[0].tokens.values()) == sum(learned[1].tokens.values())


def test_joined_rows_keep_what_belongs_to_their_question(tmp_path: Path) -> None:
    scored = {"correctness": 1, "prompt": "q", "input": "i", "note": "n"}
    rows = [
        {**scored, "system": system, "response": answer, "helpfulness": score}
        for system, answer, score in (("s", "a", 2), ("s", "b", 1), ("t", "a", 1), ("t", "c", 3))
    ]
    one, other = serve(write_jsonl(tmp_path / "in.jsonl", rows), kind="preference")
    asked = {"role": "user", "content": "q\ni"}
    assert one.record.prompt == [S, asked]
    assert other.record.prompt == [{**S, "content": "t"}, asked]
    assert (one.record.chosen, other.record.chosen) == ([A], [{**A, "content": "c"}])
    assert (one.unused, other.unused) == (("note",), ("note",))


def test_a_key_of_a_single_turn_is_named() -> None:
    assert read({"prompt": "q", "chosen": {**A, "note": "n"}, "rejected": B}).unused == (
        "chosen.note",
    )


def test_the_advice_on_a_question_with_its_context_keeps_both() -> None:
    row = {"context": "given", "question": "q", "answers": {"text": ["a"], "start": [1]}}
    advice = columns_advice(row)
    assert advice.endswith("--columns prompt=question,completion=answers.text.0")
    columns = parse_columns(advice.partition("--columns ")[2])
    ((one,),) = adapted_batches([[Row("in.jsonl", 1, 1, row)]], columns=columns)
    assert isinstance(one.record, Record)
    assert (one.record.prompt, one.record.completion) == ("q\ngiven", "a")
