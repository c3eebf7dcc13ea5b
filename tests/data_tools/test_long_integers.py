"""Integers beyond 64 bits arrive as they are written, whatever file they come from."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import write_jsonl

from data_tools.cli import data
from data_tools.convert.output import json_line
from data_tools.reading import RowError, read_rows
from data_tools.reading.json_rows import PIECE
from data_tools.shapes import load_records

Row = dict[str, Any]
LONG = 123456789012345678901234567890
EDGES = [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**19, -LONG, LONG]
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def write(path: Path, rows: list[Row]) -> Path:
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    path.write_text(json.dumps(rows, indent=1), "utf-8")
    return path


def run(*words: object) -> str:
    result = CliRunner().invoke(data, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("edge", EDGES)
def test_an_integer_of_any_length_is_read_exactly(tmp_path: Path, suffix: str, edge: int) -> None:
    rows = [
        {"id": edge, "text": "a"},
        {"text": "b", "ids": [edge, "x", edge], "deep": {"a": [{"b": edge}]}},
        {"text": f"c {edge}", "id": None},
        {"text": "1e30 is a float", "id": 1e30},
        {"id": 1, "text": "e"},
    ]
    found = [row.data for row in read_rows(write(tmp_path / f"in.{suffix}", rows))]
    assert found == rows
    assert type(found[0]["id"]) is int
    assert type(found[3]["id"]) is float


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_each_of_many_rows_keeps_its_own_integer(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(0)
    rows = [{"id": draw.getrandbits(draw.choice([8, 63, 64, 65, 100])), "text": "x" * 40}]
    rows += [
        {"id": draw.getrandbits(draw.choice([8, 63, 64, 65, 100])), "text": "a" * (i % 99)}
        for i in range(5000)
    ]
    path = write(tmp_path / f"in.{suffix}", rows)
    assert path.stat().st_size > 2 * PIECE
    assert [row.data for row in read_rows(path)] == rows


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_what_is_no_number_is_refused_beside_a_long_integer(
    tmp_path: Path, suffix: str, constant: str
) -> None:
    row = f'{{"id": {LONG}, "score": {constant}, "text": "a"}}'
    path = tmp_path / f"in.{suffix}"
    path.write_text(f"[{row}]" if suffix == "json" else f"{row}\n")
    with pytest.raises(RowError, match="not JSON"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_key_given_twice_is_found_beside_a_long_integer(tmp_path: Path, suffix: str) -> None:
    row = f'{{"id": {LONG}, "id": {LONG}, "text": "a"}}'
    path = tmp_path / f"in.{suffix}"
    path.write_text(f"[{row}]" if suffix == "json" else f"{row}\n")
    with pytest.raises(RowError, match="'id' appears twice"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_nesting_too_deep_to_be_read_exactly_is_refused(tmp_path: Path, suffix: str) -> None:
    row = f'{{"id": {LONG}, "deep": {"[" * 1000}{"]" * 1000}, "text": "a"}}'
    path = tmp_path / f"in.{suffix}"
    path.write_text(f"[{row}]" if suffix == "json" else f"{row}\n")
    with pytest.raises(RowError, match="nested too deep"):
        list(read_rows(path))


def test_a_row_is_written_as_it_was(tmp_path: Path) -> None:
    for value in [{"id": edge, "t": '中\n"\u2028'} for edge in EDGES]:
        line = json_line(value)
        assert json.loads(line) == value
        assert (line.count(b"\n"), line[-1:], "中".encode() in line) == (1, b"\n", True)
    assert json_line({"id": LONG, "a": [1.5]}) == b'{"id":%d,"a":[1.5]}\n' % LONG
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_line({"id": LONG, "a": float("nan")})
    with pytest.raises(TypeError):
        json_line({"id": object()})


@pytest.mark.parametrize("processes", [1, 2])
def test_convert_keeps_the_arguments_of_a_call(tmp_path: Path, processes: int) -> None:
    calls = [{"function": {"name": "get", "arguments": {"id": LONG}}}]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}]
    rows = [{"id": LONG, "messages": turns}] * 3 + [{"id": LONG, "prompt": "q", "completion": "a"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run("convert", source, "-o", tmp_path / "out.jsonl", "--num-proc", processes)
    made = rows_of(tmp_path / "out.jsonl")  # the last row, of text, is rewritten as messages
    assert [row["messages"][1].get("tool_calls") for row in made] == [calls, calls, calls, None]


def test_rows_pass_through_split_and_dedup_unchanged(tmp_path: Path) -> None:
    rows = [{"id": LONG + i, **PAIR, "prompt": f"question {i}"} for i in range(20)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run("dedup", source, "-o", tmp_path / "out.jsonl")
    assert rows_of(tmp_path / "out.jsonl") == rows
    run("split", source, "-o", tmp_path / "set.jsonl", "--eval", "0.3")
    sides = rows_of(tmp_path / "set.train.jsonl") + rows_of(tmp_path / "set.eval.jsonl")
    assert sorted(row["id"] for row in sides) == [row["id"] for row in rows]


def test_validate_and_a_passed_on_column_take_long_integers(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": LONG, **PAIR}, {"id": -LONG, **PAIR}])
    assert "2 rows, 2 records" in run("validate", source)
    assert [row["id"] for row in load_records(source, kind="prompt")] == [LONG, -LONG]


def test_scores_may_be_long_integers(tmp_path: Path) -> None:
    row = {"prompt": "q", "responses": ["a", "b"], "scores": [LONG, 1]}
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    run("convert", source, "-o", tmp_path / "out.jsonl")
    (made,) = rows_of(tmp_path / "out.jsonl")
    assert (made["chosen"], made["margin"]) == ("a", float(LONG))
