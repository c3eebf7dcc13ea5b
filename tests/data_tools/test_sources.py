"""Sources by their names in LLaMA-Factory's dataset_info.json."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import write_jsonl

from alignment.errors import AlignError, ConfigError
from data_tools.cli import data
from data_tools.formats import Record, examples, located, parse_columns

Json = dict[str, Any]
U, A, B = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"),
                                                  ("assistant", "b")))  # fmt: skip
S = {"role": "system", "content": "s"}
CALL = '{"name": "f", "arguments": {}}'
CALLS = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
OWN_TAGS = {
    "role_tag": "who", "content_tag": "what", "user_tag": "U", "assistant_tag": "A",
    "system_tag": "S", "observation_tag": "O", "function_tag": "F",
}  # fmt: skip


def turns(*said: tuple[str, str]) -> list[Json]:
    return [{"who": who, "what": what} for who, what in said]


#: An entry, a row, and what the record of the row is.
ENTRIES: dict[str, tuple[Json, Json, Record]] = {
    "alpaca by default": (
        {},
        {"instruction": "q", "input": "i", "output": "a"},
        Record("sft", "q\ni", completion="a"),
    ),
    "alpaca": (
        {"columns": {"prompt": "p", "query": "x", "response": "r", "system": "sy", "history": "h"}},
        {"p": "q", "x": "", "r": "a", "sy": "s", "h": [["q", "b"]], "instruction": "no"},
        Record("sft", messages=[S, U, B, U, A]),
    ),
    "ranking": (
        {"ranking": True, "columns": {"prompt": "p", "chosen": "good", "rejected": "bad"}},
        {"p": "q", "good": "a", "bad": "b"},
        Record("preference", "q", chosen="a", rejected="b"),
    ),
    "ranking in a list": (
        {"ranking": True},
        {"instruction": "q", "output": ["a", "b"]},
        Record("ranked", "q", answers=("a", "b")),
    ),
    "kto": (
        {"columns": {"kto_tag": "liked"}},
        {"instruction": "q", "input": "", "output": "a", "liked": False},
        Record("unpaired", "q", completion="a", label=False),
    ),
    "pre-training": ({"columns": {"prompt": "body"}}, {"body": "t"}, Record("text", text="t")),
    "sharegpt": (
        {"formatting": "sharegpt", "columns": {"system": "sy", "tools": "t"}},
        {
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
            "sy": "s",
            "t": '[{"name": "f"}]',
        },
        Record("sft", messages=[S, U, A], tools=[{"name": "f"}]),
    ),
    "tags": (
        {"formatting": "sharegpt", "columns": {"messages": "m"}, "tags": OWN_TAGS},
        {"m": turns(("S", "s"), ("U", "q"), ("F", CALL), ("O", "3"), ("A", "a"))},
        Record(
            "sft",
            messages=[
                S,
                U,
                {"role": "assistant", "content": "", "tool_calls": CALLS},
                {"role": "tool", "content": "3"},
                A,
            ],
        ),
    ),
    "ranking of turns": (
        {
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "m", "chosen": "good", "rejected": "bad"},
            "tags": OWN_TAGS,
        },
        {
            "m": turns(("U", "q")),
            "good": {"who": "A", "what": "a"},
            "bad": {"who": "A", "what": "b"},
        },
        Record("preference", [U], chosen=[A], rejected=[B]),
    ),
    "kto of turns": (
        {
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "kto_tag": "label"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                     "assistant_tag": "assistant"},
        },
        {"messages": [U, A], "label": True},
        Record("unpaired", [U], completion=[A], label=True),
    ),
    "openai": ({"formatting": "openai", "columns": {"messages": "messages"}},
               {"messages": [U, A]}, Record("sft", messages=[U, A])),
}  # fmt: skip


def listed(folder: Path, entry: Json, row: Json) -> str:
    """The name of a source in a list."""
    write_jsonl(folder / "in.jsonl", [row])
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({"mine": {"file_name": "in.jsonl", **entry}}), "utf-8")
    return f"{info}@mine"


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_says_what_the_columns_hold(name: str, tmp_path: Path) -> None:
    entry, row, wanted = ENTRIES[name]
    source = listed(tmp_path, entry, row)
    ((file, columns),) = located(source)
    (example,) = examples(file, columns=columns)
    assert example.record == wanted
    assert located(f"{tmp_path}@mine") == [(file, columns)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"num_samples": 3}, "'num_samples' is not read"),
        ({"formatting": "parquet"}, "formatting 'parquet' is not known"),
        ({"columns": {"answer": "r"}}, "column 'answer' is not known"),
        ({"file_name": None}, "no 'file_name'"),
    ],
)
def test_what_is_not_read_of_an_entry_is_an_error(entry: Json, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        located(listed(tmp_path, entry, {}))


def test_a_name_that_is_not_listed_and_columns_that_are_named_twice(tmp_path: Path) -> None:
    source = listed(tmp_path, {}, {})
    with pytest.raises(ConfigError, match=r"no data set 'other'\n  it has mine"):
        located(source.replace("@mine", "@other"))
    with pytest.raises(ConfigError, match="names its own columns"):
        located(source, parse_columns("prompt=q"))
    with pytest.raises(AlignError, match="no such file"):
        located(tmp_path / "absent.json@mine")


def test_a_weight_is_for_the_stages(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{}])
    with pytest.raises(ConfigError, match=r"a.jsonl:0.3: a weight is for the training data"):
        located(f"{source}:0.3")
    odd = source.rename(tmp_path / "a:3")
    assert located(str(odd)) == [(odd, None)]


def test_the_commands_read_listed_sources(tmp_path: Path) -> None:
    entry, row, _ = ENTRIES["ranking"]
    source, out = listed(tmp_path, entry, {**row, "note": "n"}), str(tmp_path / "out.jsonl")
    run = CliRunner().invoke
    done = run(data, ["convert", source, "-o", out, "--num-proc", "2"])
    assert "not used         1  note" in done.output
    assert "1 rows in, 1 out" in done.output
    assert "1 rows, 1 records in 1 file(s)" in run(data, ["validate", source]).output
    assert "in.jsonl:1: pair, preference" in run(data, ["show", source]).output
    assert run(data, ["stats", source]).exit_code == 0
