"""What a chat template reads besides role and content: tools, variables, keys of turns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_cases import CASES, make_case_tokenizer
from support import write_jsonl

from alignment.errors import DataError
from data_tools.convert.run import convert
from data_tools.convert.writer import Conversion
from data_tools.formats import Record, Unusable, examples
from data_tools.rendering import Renderer
from data_tools.rendering.tokenizer import from_transformers

Row = dict[str, Any]
U = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "good"}
B = {"role": "assistant", "content": "bad"}
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {}}}]
CALLS = [{"type": "function", "function": {"name": "now", "arguments": {}}}]
INPUTS = {"tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}}

SHAPES: dict[str, Row] = {
    "messages": {"messages": [U, A]},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "pair of messages": {"prompt": [U], "chosen": [A], "rejected": [B]},
    "pair of text": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "prompt and completion": {"prompt": [U], "completion": [A]},
    "prompt": {"prompt": [U]},
    "unpaired": {"prompt": [U], "completion": [A], "label": True},
    "ranked": {"prompt": "q", "responses": ["a", "b"], "scores": [2, 1]},
}


def record_of(tmp_path: Path, row: Row) -> Record | Unusable:
    (example,) = examples(write_jsonl(tmp_path / "in.jsonl", [row]))
    return example.record


def converted(tmp_path: Path, row: Row, to: str) -> list[Row]:
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    (summary,) = convert([str(source)], tmp_path / "out.jsonl", Conversion(to=to))
    added = {"source", "source_row", "group_id"}
    rows = [json.loads(line) for line in summary.output.read_text("utf-8").splitlines()]
    return [{key: value for key, value in made.items() if key not in added} for made in rows]


@pytest.mark.parametrize("shape", SHAPES)
def test_tools_and_variables_of_a_row_are_read(tmp_path: Path, shape: str) -> None:
    record = record_of(tmp_path, {**SHAPES[shape], **INPUTS})
    assert isinstance(record, Record)
    assert record.tools == TOOLS
    assert record.template_kwargs == {"enable_thinking": False}
    without = record_of(tmp_path, SHAPES[shape])
    assert replace(record, tools=None, template_kwargs=None) == without


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"tools": json.dumps(TOOLS)}, (TOOLS, None)),
        ({"tools": ""}, (None, None)),
        ({"tools": None, "chat_template_kwargs": None}, (None, None)),
        ({"tools": []}, ([], None)),
        ({"chat_template_kwargs": '{"date": "1 May"}'}, (None, {"date": "1 May"})),
    ],
)
def test_tools_may_be_json_text_and_may_be_absent(tmp_path: Path, given: Row, wanted: Any) -> None:
    record = record_of(tmp_path, {**SHAPES["messages"], **given})
    assert isinstance(record, Record)
    assert (record.tools, record.template_kwargs) == wanted


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"tools": "a hammer"}, "tools"),
        ({"tools": ["now"]}, "tools"),
        ({"tools": {"name": "now"}}, "tools"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"chat_template_kwargs": "{"}, "chat_template_kwargs"),
    ],
)
def test_other_values_are_refused(tmp_path: Path, given: Row, key: str) -> None:
    record = record_of(tmp_path, {**SHAPES["messages"], **given})
    assert isinstance(record, Unusable)
    assert record.code == "wrong_type"
    assert repr(key) in record.reason


def test_openais_tools_are_inside_its_input(tmp_path: Path) -> None:
    row = {"preferred_output": [A], "non_preferred_output": [B]}
    given = {"input": {"messages": [U], "tools": TOOLS}, **row}
    none = {"input": {"messages": [U], "tools": []}, **row}
    records = [record_of(tmp_path, one) for one in (given, none)]
    assert [one.tools for one in records if isinstance(one, Record)] == [TOOLS, None]


def test_a_turn_keeps_what_decides_its_loss_and_its_reasoning(tmp_path: Path) -> None:
    turns = [
        U,
        {**A, "weight": 0, "reasoning_content": "", "other": 1},
        {**U, "weight": None, "name": "", "tool_call_id": "7"},
        {**A, "loss": False, "thinking": "hm", "tool_calls": []},
        U,
        {**A, "train": True, "weight": 1},
    ]
    record = record_of(tmp_path, {"messages": turns})
    assert isinstance(record, Record)
    assert record.messages == [
        U,
        {**A, "weight": 0, "reasoning_content": ""},
        {**U, "tool_call_id": "7"},
        {**A, "loss": False, "thinking": "hm"},
        U,
        {**A, "train": True, "weight": 1},
    ]


def test_a_call_needs_no_text(tmp_path: Path) -> None:
    calls = [{"function": {"name": "now", "arguments": {}}}]
    record = record_of(tmp_path, {"messages": [U, {"role": "assistant", "tool_calls": calls}]})
    assert isinstance(record, Record)
    assert record.messages == [U, {"role": "assistant", "content": "", "tool_calls": calls}]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (
            {"weight": "0"},
            "'weight' of messages[1] is the string '0', wanted 0, 1, true or false",
        ),
        ({"reasoning_content": 3}, "'reasoning_content' is the number 3, wanted text"),
    ],
)
def test_a_weight_or_reasoning_of_another_type_is_refused(
    tmp_path: Path, turn: Row, message: str
) -> None:
    record = record_of(tmp_path, {"messages": [U, {**A, **turn}]})
    assert isinstance(record, Unusable)
    assert (record.code, str(record)) == ("wrong_type", message)


@pytest.mark.parametrize(
    ("shape", "to"),
    [
        ("messages", "sft"),
        ("pair of messages", "pairs"),
        ("pair of messages", "sft"),
        ("pair of text", "pairs"),
        ("pair of messages", "kto"),
        ("unpaired", "kto"),
        ("messages", "prompts"),
        ("prompt", "prompts"),
        ("ranked", "pairs"),
    ],
)
def test_trls_shapes_keep_tools_and_variables(tmp_path: Path, shape: str, to: str) -> None:
    for row in converted(tmp_path, {**SHAPES[shape], **INPUTS}, to):
        assert {key: row[key] for key in INPUTS} == INPUTS


def test_likes_and_dislikes_keep_tools_in_their_pair(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": c, "label": c == "a", **INPUTS} for c in "ab"]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    (summary,) = convert([str(source)], tmp_path / "out.jsonl", Conversion(to="pairs"))
    (pair,) = map(json.loads, summary.output.read_text("utf-8").splitlines())
    assert (pair["chosen"], pair["rejected"], pair["tools"]) == ("a", "b", TOOLS)


def test_the_shapes_of_others_keep_tools_where_they_have_them(tmp_path: Path) -> None:
    chat, pair = ({**SHAPES[name], "tools": TOOLS} for name in ("messages", "pair of messages"))
    assert converted(tmp_path, chat, "openai") == [{"messages": [U, A], "tools": TOOLS}]
    assert converted(tmp_path, pair, "openai")[0]["input"]["tools"] == TOOLS
    for row in (chat, pair):
        assert json.loads(converted(tmp_path, row, "llamafactory")[0]["tools"]) == TOOLS


@pytest.mark.parametrize("to", ["sft", "openai"])
def test_keys_of_turns_are_exported(tmp_path: Path, to: str) -> None:
    turns = [U, {**A, "weight": 0}, U, {**A, "reasoning_content": "hm"}]
    assert converted(tmp_path, {"messages": turns}, to) == [{"messages": turns}]


@pytest.mark.parametrize(
    ("row", "hidden"),
    [
        ({"messages": [U, A], "tools": TOOLS}, "'tools'"),
        ({"messages": [U, {"role": "assistant", "tool_calls": CALLS}]}, "'tool_calls' of a turn"),
        ({"messages": [U, {**A, "thinking": "hm"}]}, "'thinking' of a turn"),
        (
            {"prompt": "q", "chosen": [{**A, "reasoning_content": "hm"}], "rejected": "b"},
            "'reasoning_content' of a turn",
        ),
    ],
)
def test_what_a_template_does_not_read_is_refused_by_name(
    tmp_path: Path, row: Row, hidden: str
) -> None:
    record = record_of(tmp_path, row)
    assert isinstance(record, Record)
    for name, reads in (("chatml", False), ("qwen3", True)):
        renderer = Renderer(from_transformers(make_case_tokenizer(CASES[name])))
        if reads:
            assert renderer.sequences(record)
            continue
        with pytest.raises(Unusable, match=f"the chat template does not read {hidden}"):
            renderer.sequences(record)


def test_llamafactory_gets_tool_calls_and_refuses_what_it_has_no_place_for(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": CALLS}
    turns = [U, call, {"role": "tool", "content": "3", "name": "now"}, A]
    (row,) = converted(tmp_path, {"messages": turns}, "llamafactory")
    assert [turn["from"] for turn in row["conversations"]] == [
        "human", "function_call", "observation", "gpt",
    ]  # fmt: skip
    called = json.loads(row["conversations"][1]["value"])
    assert called == [{"name": "now", "arguments": {}}]
    again = converted(tmp_path, row, "sft")[0]["messages"]
    assert [turn["content"] for turn in again] == [turn["content"] for turn in turns]
    assert again[1]["tool_calls"][0]["function"] == CALLS[0]["function"]
    for lost in (
        {"messages": [U, {**A, "reasoning_content": "hm"}]},
        {"messages": [U, {**A, "weight": 0}]},
        {"messages": [U, {**A, "tool_calls": CALLS}]},
        {"messages": [U, A], "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [{**U, "name": "ann"}, A]},
        {"prompt": [U], "chosen": [A, U, A], "rejected": [A]},
    ):
        with pytest.raises(DataError, match="--to llamafactory has no place for"):
            converted(tmp_path, lost, "llamafactory")
