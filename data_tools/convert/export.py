"""Turns records into rows of the shapes that trainers and services read (`--to`)."""

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from data_tools.formats import Kind, Record, Text, Unusable, as_messages, before_last_answer

Json: TypeAlias = dict[str, Any]

TEXT_PARTS = ("prompt", "chosen", "rejected", "completion")
SHAREGPT = {"user": "human", "assistant": "gpt", "tool": "observation"}


def pairs(record: Record) -> list[Json]:
    """TRL's explicit preference rows, with the margin if it is known."""
    row: Json = {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
    if record.margin is not None:
        row["margin"] = record.margin
    return [_with_template_inputs(row, record)]


def sft(record: Record) -> list[Json]:
    """TRL's SFT rows; a pair gives its chosen side."""
    answer = record.chosen if record.kind == "preference" else record.completion
    if record.messages is not None:
        row: Json = {"messages": record.messages}
    elif isinstance(record.prompt, str):
        row = {"prompt": record.prompt, "completion": answer}
    else:
        row = {"messages": [*map(_unlearned, record.prompt), *as_messages(answer, "assistant")]}
    return [_with_template_inputs(row, record)]


def kto(record: Record) -> list[Json]:
    """TRL's unpaired rows; a pair gives one row of each label."""
    if record.kind == "unpaired":
        sides = [(record.completion, bool(record.label))]
    else:
        sides = [(record.chosen, True), (record.rejected, False)]
    rows = [{"prompt": record.prompt, "completion": c, "label": label} for c, label in sides]
    return [_with_template_inputs(row, record) for row in rows]


def prompts(record: Record) -> list[Json]:
    """Only prompts, for on-policy training."""
    return [_with_template_inputs({"prompt": before_last_answer(record)}, record)]


def texts(record: Record) -> list[Json]:
    """Plain text, for pre-training."""
    return [{"text": record.text}]


def llamafactory(record: Record) -> list[Json]:
    """LLaMA-Factory's sharegpt rows; those of pairs need `ranking: true` in its data set list.

    Raises:
        Unusable: If a part of the record has no place there; `not_used`.
    """
    _no_settings(record, "llamafactory")
    if record.kind == "preference":
        turns = as_messages(record.prompt, "user")
        sides = {
            name: _sharegpt(_only_turn(as_messages(answer, "assistant"), name))
            for name, answer in (("chosen", record.chosen), ("rejected", record.rejected))
        }
    else:
        turns = record.messages or _conversation(record.prompt, record.completion)
        sides = {}
    system = {"system": turns[0]["content"]} if turns[0]["role"] == "system" else {}
    spoken = turns[1:] if system else turns
    # LLaMA-Factory parses this column: as text, rows with different schemas fit one Arrow table
    tools = {"tools": json.dumps(record.tools, ensure_ascii=False)} if record.tools else {}
    return [{"conversations": [_sharegpt(turn) for turn in spoken], **sides, **system, **tools}]


def openai(record: Record) -> list[Json]:
    """OpenAI's preference rows for pairs, its chat rows for SFT.

    Raises:
        Unusable: If a part of the record has no place there; `not_used`.
    """
    _no_settings(record, "openai")
    if record.kind != "preference":
        turns = record.messages or _conversation(record.prompt, record.completion)
        return [{"messages": turns, **({"tools": record.tools} if record.tools else {})}]
    # OpenAI's own rows have the list of tools also if it is empty
    asked = {"messages": as_messages(record.prompt, "user"), "tools": record.tools or []}
    return [
        {
            "input": {**asked, "parallel_tool_calls": True},
            "preferred_output": as_messages(record.chosen, "assistant"),
            "non_preferred_output": as_messages(record.rejected, "assistant"),
        }
    ]


def _with_template_inputs(row: Json, record: Record) -> Json:
    """Add what else a chat template reads to a row in one of TRL's shapes."""
    if record.tools is not None:
        row["tools"] = record.tools
    if record.template_kwargs is not None:
        row["chat_template_kwargs"] = record.template_kwargs
    return row


def _unlearned(turn: Json) -> Json:
    """A turn of a prompt: only the answer to it is learned, also in one conversation with it."""
    return {**turn, "weight": 0} if turn["role"] == "assistant" else turn


def _conversation(prompt: Text, answer: Text) -> list[Json]:
    return as_messages(prompt, "user") + as_messages(answer, "assistant")


def _sharegpt(turn: Json) -> Json:
    """A turn in LLaMA-Factory's words; the names of tools are those of the calls before.

    Raises:
        Unusable: If it says more than they can; `not_used`.
    """
    lost = [key for key in turn if key not in ("role", "content", "name", "tool_call_id")]
    calls = [call.get("function", call) for call in turn.get("tool_calls", ())]
    if calls and not turn["content"]:
        lost.remove("tool_calls")
        value = [{"name": call["name"], "arguments": call.get("arguments")} for call in calls]
        written: Json = {"from": "function_call", "value": json.dumps(value, ensure_ascii=False)}
    else:
        written = {"from": SHAREGPT.get(turn["role"], turn["role"]), "value": turn["content"]}
    if lost or (turn["role"] != "tool" and "name" in turn):
        raise _no_place("llamafactory", f"{lost[0] if lost else 'name'!r} of a turn")
    return written


def _only_turn(turns: list[Json], name: str) -> Json:
    if len(turns) > 1:
        raise _no_place("llamafactory", f"{len(turns)} turns in {name!r}")
    return turns[0]


def _no_settings(record: Record, shape: str) -> None:
    if record.template_kwargs:
        raise _no_place(shape, "'chat_template_kwargs'")


def _no_place(shape: str, what: str) -> Unusable:
    remedy = "write such rows in a shape that has it: --to auto"
    return Unusable("not_used", f"--to {shape} has no place for {what}", remedy)


EXPORTS: dict[str, tuple[Callable[[Record], list[Json]], frozenset[Kind]]] = {
    "pairs": (pairs, frozenset({"preference"})),
    "sft": (sft, frozenset({"sft", "preference"})),
    "kto": (kto, frozenset({"preference", "unpaired"})),
    "prompts": (prompts, frozenset({"preference", "sft", "unpaired", "prompt"})),
    "text": (texts, frozenset({"text"})),
    "llamafactory": (llamafactory, frozenset({"preference", "sft"})),
    "openai": (openai, frozenset({"preference", "sft"})),
}
"""The shapes that `--to` names: a function to rows, and the kinds of record it accepts."""

NATURAL: dict[Kind, str] = {
    "preference": "pairs",
    "ranked": "pairs",
    "sft": "sft",
    "unpaired": "kto",
    "prompt": "prompts",
    "text": "text",
}
"""The shape that keeps all of a record; `--to auto` uses that of the first record."""


def accepted_by(shape: str) -> frozenset[Kind]:
    """Return the kinds of record that a shape accepts, directly or as pairs."""
    kinds = EXPORTS[shape][1]
    ranked: frozenset[Kind] = frozenset({"ranked"}) if "preference" in kinds else frozenset()
    labelled: frozenset[Kind] = frozenset({"unpaired"}) if shape == "pairs" else frozenset()
    return kinds | ranked | labelled


def unified(row: Json) -> Json:
    """Return a row with all parts as messages, for files in which some rows are conversations."""
    parts = {
        name: as_messages(row[name], "user" if name == "prompt" else "assistant")
        for name in TEXT_PARTS
        if name in row
    }
    if "completion" in parts and "label" not in row:
        rest = {key: value for key, value in row.items() if key not in parts}
        return {"messages": parts["prompt"] + parts["completion"], **rest}
    return {**row, **parts}
