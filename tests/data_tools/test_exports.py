"""Every shape that `--to` writes, from records of every kind, as exact rows."""

import json
from typing import Any

import pytest

from data_tools.convert.export import EXPORTS, NATURAL, accepted_by, unified
from data_tools.formats import Record, Unusable

S = {"role": "system", "content": "s"}
U0 = {"role": "user", "content": "q0"}
A0 = {"role": "assistant", "content": "a0"}
U = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "好"}
B = {"role": "assistant", "content": "bad"}
TOOLS = [{"type": "function", "function": {"name": "看"}}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": "一"}}}
GIVEN = {"enable_thinking": False}

PAIR = Record("preference", "q", chosen="好", rejected="bad", margin=0.5)
TURNS = Record("preference", [S, U0, A0, U], chosen=[A], rejected=[B], tools=TOOLS)
SFT = Record("sft", "q", completion="好")
TALK = Record("sft", messages=[S, U0, A0, U, A], tools=TOOLS)
SPLIT = Record("sft", [U0, A0, U], completion=[A])
JUDGED = Record("unpaired", [U], completion=[A], label=True)
NOTE = Record("unpaired", "q", completion="好", label=False)
ASKED = Record("prompt", [S, U], tools=TOOLS, template_kwargs=GIVEN)


def gpt(value: str, speaker: str = "gpt") -> dict[str, str]:
    return {"from": speaker, "value": value}


SPOKEN = [gpt("q0", "human"), gpt("a0"), gpt("q", "human")]


@pytest.mark.parametrize(
    ("shape", "record", "rows"),
    [
        ("pairs", PAIR, [{"prompt": "q", "chosen": "好", "rejected": "bad", "margin": 0.5}]),
        (
            "pairs",
            TURNS,
            [{"prompt": [S, U0, A0, U], "chosen": [A], "rejected": [B], "tools": TOOLS}],
        ),
        ("sft", PAIR, [{"prompt": "q", "completion": "好"}]),
        ("sft", SFT, [{"prompt": "q", "completion": "好"}]),
        ("sft", TALK, [{"messages": TALK.messages, "tools": TOOLS}]),
        ("sft", SPLIT, [{"messages": [U0, {**A0, "weight": 0}, U, A]}]),
        ("sft", TURNS, [{"messages": [S, U0, {**A0, "weight": 0}, U, A], "tools": TOOLS}]),
        (
            "kto",
            PAIR,
            [
                {"prompt": "q", "completion": "好", "label": True},
                {"prompt": "q", "completion": "bad", "label": False},
            ],
        ),
        ("kto", JUDGED, [{"prompt": [U], "completion": [A], "label": True}]),
        ("kto", NOTE, [{"prompt": "q", "completion": "好", "label": False}]),
        ("prompts", PAIR, [{"prompt": "q"}]),
        ("prompts", TURNS, [{"prompt": [S, U0, A0, U], "tools": TOOLS}]),
        ("prompts", TALK, [{"prompt": [S, U0, A0, U], "tools": TOOLS}]),
        ("prompts", NOTE, [{"prompt": "q"}]),
        (
            "prompts",
            ASKED,
            [{"prompt": [S, U], "tools": TOOLS, "chat_template_kwargs": GIVEN}],
        ),
        ("text", Record("text", text="t"), [{"text": "t"}]),
        (
            "llamafactory",
            PAIR,
            [
                {
                    "conversations": [gpt("q", "human")],
                    "chosen": gpt("好"),
                    "rejected": gpt("bad"),
                }
            ],
        ),
        (
            "llamafactory",
            TURNS,
            [
                {
                    "conversations": SPOKEN,
                    "chosen": gpt("好"),
                    "rejected": gpt("bad"),
                    "system": "s",
                    "tools": json.dumps(TOOLS, ensure_ascii=False),
                }
            ],
        ),
        ("llamafactory", SFT, [{"conversations": [gpt("q", "human"), gpt("好")]}]),
        ("llamafactory", SPLIT, [{"conversations": [*SPOKEN, gpt("好")]}]),
        (
            "llamafactory",
            TALK,
            [
                {
                    "conversations": [*SPOKEN, gpt("好")],
                    "system": "s",
                    "tools": json.dumps(TOOLS, ensure_ascii=False),
                }
            ],
        ),
        (
            "llamafactory",
            Record(
                "sft",
                messages=[
                    U,
                    {"role": "assistant", "content": "", "tool_calls": [CALL, {"name": "g"}]},
                    {"role": "tool", "content": "4", "name": "f", "tool_call_id": "1"},
                    A,
                ],
            ),
            [
                {
                    "conversations": [
                        gpt("q", "human"),
                        gpt(
                            '[{"name": "f", "arguments": {"x": "一"}}, '
                            '{"name": "g", "arguments": null}]',
                            "function_call",
                        ),
                        gpt("4", "observation"),
                        gpt("好"),
                    ]
                }
            ],
        ),
        (
            "openai",
            PAIR,
            [
                {
                    "input": {"messages": [U], "tools": [], "parallel_tool_calls": True},
                    "preferred_output": [A],
                    "non_preferred_output": [B],
                }
            ],
        ),
        (
            "openai",
            TURNS,
            [
                {
                    "input": {
                        "messages": [S, U0, A0, U],
                        "tools": TOOLS,
                        "parallel_tool_calls": True,
                    },
                    "preferred_output": [A],
                    "non_preferred_output": [B],
                }
            ],
        ),
        ("openai", SFT, [{"messages": [U, A]}]),
        ("openai", SPLIT, [{"messages": [U0, A0, U, A]}]),
        ("openai", TALK, [{"messages": TALK.messages, "tools": TOOLS}]),
    ],
)
def test_a_record_in_a_shape(shape: str, record: Record, rows: list[dict[str, Any]]) -> None:
    write, kinds = EXPORTS[shape]
    assert record.kind in kinds
    assert write(record) == rows
    assert json.loads(json.dumps(rows, ensure_ascii=False)) == rows


@pytest.mark.parametrize(
    ("shape", "record", "what"),
    [
        ("llamafactory", Record("sft", messages=[U, A], template_kwargs=GIVEN),
         "'chat_template_kwargs'"),
        ("openai", Record("sft", messages=[U, A], template_kwargs=GIVEN),
         "'chat_template_kwargs'"),
        ("llamafactory", Record("preference", [U], chosen=[A, A], rejected=[B]),
         "2 turns in 'chosen'"),
        ("llamafactory", Record("preference", [U], chosen=[A], rejected=[B, U, B]),
         "3 turns in 'rejected'"),
        ("llamafactory", Record("sft", messages=[U, {**A, "weight": 0}]), "'weight' of a turn"),
        ("llamafactory", Record("sft", messages=[{**U, "name": "Li"}, A]), "'name' of a turn"),
        ("llamafactory", Record("sft", messages=[U, {**A, "tool_calls": [CALL]}]),
         "'tool_calls' of a turn"),
        ("llamafactory", Record("sft", messages=[U, {**A, "content": "", "tool_calls": [CALL],
                                                     "reasoning_content": "r"}]),
         "'reasoning_content' of a turn"),
    ],
)  # fmt: skip
def test_what_a_shape_has_no_place_for_is_refused(shape: str, record: Record, what: str) -> None:
    with pytest.raises(Unusable) as caught:
        EXPORTS[shape][0](record)
    assert caught.value.code == "not_used"
    assert caught.value.reason == f"--to {shape} has no place for {what}"
    assert caught.value.remedy == "write such rows in a shape that has it: --to auto"


def test_each_kind_has_a_shape_that_keeps_all_of_it() -> None:
    for kind, shape in NATURAL.items():
        assert kind in accepted_by(shape)
    assert {shape: sorted(accepted_by(shape)) for shape in EXPORTS} == {
        "pairs": ["preference", "ranked", "unpaired"],
        "sft": ["preference", "ranked", "sft"],
        "kto": ["preference", "ranked", "unpaired"],
        "prompts": ["preference", "prompt", "ranked", "sft", "unpaired"],
        "text": ["text"],
        "llamafactory": ["preference", "ranked", "sft"],
        "openai": ["preference", "ranked", "sft"],
    }


@pytest.mark.parametrize(
    ("row", "whole"),
    [
        (
            {"prompt": "q", "chosen": "好", "rejected": [B], "margin": 1},
            {"prompt": [U], "chosen": [A], "rejected": [B], "margin": 1},
        ),
        ({"prompt": "q", "completion": "好", "x": 1}, {"messages": [U, A], "x": 1}),
        (
            {"prompt": [S, U], "completion": "好", "label": True},
            {"prompt": [S, U], "completion": [A], "label": True},
        ),
        ({"prompt": "q"}, {"prompt": [U]}),
        ({"messages": [U, A]}, {"messages": [U, A]}),
    ],
)
def test_texts_among_conversations_become_turns(row: Any, whole: Any) -> None:
    assert unified(row) == whole
