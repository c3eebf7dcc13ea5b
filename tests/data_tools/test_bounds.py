"""Every check reads a text of any kind in time that grows with its length; nothing ends in a trace.

The time-out of a test is its bound: a pattern that tries a megabyte from each of its places takes
hours.
"""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from support import write_jsonl

from alignment.errors import DataError
from data_tools.checks import visible
from data_tools.checks.records import record_findings
from data_tools.checks.texts import PATTERNS
from data_tools.cli import data
from data_tools.formats import Record, is_sentinel
from data_tools.reading import binary, read_rows
from data_tools.reading.arrow_sizes import unpacked_sizes
from data_tools.reading.cells import turns_of_cell
from data_tools.rendering.templates import TEMPLATE_ERRORS

MEGABYTE = 1_000_000
TRIGGERS = [
    *("a", "a@", "a@a.", "1", "1 ", "1-", "(1", "12345678901 ", "4111 1111 ", "255.255."),
    *("<a ", "<|a", "&amp", "[INST", "\\n ", '"\\n', "`", "```\n", "$a", '"a" ', "\\a", "a_", "a("),
    *("a(" * 300 + "\n", ")" * 900 + "\n", "a.b_" * 99 + "\n", "import a\n", " = ", "    a\n"),
    *(
        "https://a/",
        "\nHuman:",
        "sk-",
        "ghp_",
        "-----BEGIN A",
        "\u200d",
        "👩\u200d",
        "\u0645\u200c",
    ),
    *("Ã©", "。", "好a", "a,", ". a", "\r\n", " ", "- a\n", "：", "<无输入>", "\x1b[0m"),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda one: ascii(one)[:12])
def test_a_megabyte_of_any_trigger(trigger: str) -> None:
    text = "x " + (trigger * (MEGABYTE // len(trigger)))[:MEGABYTE] + "y"
    record = Record("preference", "q", chosen=text, rejected="z")
    assert all(len(finding.found) < MEGABYTE * 2 for finding in record_findings(record))
    is_sentinel(text)
    visible(text)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("trigger", [" ", "\n", "[", "[ ", "{ ", "{'role' "], ids=ascii)
def test_a_megabyte_that_may_begin_as_messages_do(trigger: str) -> None:
    text = (trigger * (MEGABYTE // len(trigger)))[:MEGABYTE]
    assert turns_of_cell(f"{text}x") is None
    assert turns_of_cell(f"array([{text}x") is None


def test_the_patterns_bound_what_they_repeat_or_begin_once() -> None:
    """The address is the pattern that took 42 s for 120 kB: one try at each start of a name."""
    assert PATTERNS["pii_email"].pattern.startswith("(?<![A-Za-z0-9._%+-])")
    name = "a" * 64
    assert PATTERNS["pii_email"].search(f"x {name}@mail.org")
    assert not PATTERNS["pii_email"].search(f"x {name}a@mail.org")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data, [str(one) for one in arguments])


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", [250, 300, 900, 1100, 200_000])
@pytest.mark.parametrize("shape", ["line", "list", "array", "document", "tools"])
def test_deep_json_ends_in_a_line(tmp_path: Path, depth: int, shape: str) -> None:
    row = f'{{"prompt":"a","completion":"b","x":{nested(depth)}}}'
    if shape == "list":
        row = f'{{"prompt":"a","completion":"b","x":{"[" * depth}{"]" * depth}}}'
    if shape == "tools":
        row = f'{{"prompt":"a","completion":"b","tools":[{{"function":{nested(depth)}}}]}}'
    text = {"array": f"[{row}]", "document": row.replace(",", ",\n", 1)}.get(shape, row + "\n")
    path = tmp_path / ("a.json" if shape in ("array", "document") else "a.jsonl")
    path.write_text(text)
    for command in (
        ("convert", path, "-o", tmp_path / "out.jsonl"),
        ("convert", path, "-o", tmp_path / "out.jsonl", "--on-error", "drop"),
        ("convert", path, "-o", tmp_path / "out.parquet"),
        ("validate", path),
        ("show", path),
        ("dedup", path, "-o", tmp_path / "unique.jsonl"),
    ):
        result = run(*command)
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            command[0],
            repr(result.exception)[:200],
        )
        assert result.exit_code in (0, 1, 2)


@pytest.mark.parametrize("command", ["show", "validate"])
def test_escape_sequences_are_shown_and_not_obeyed(tmp_path: Path, command: str) -> None:
    rows = [
        {
            "prompt": "a\x1b[31m\x1b]0;t\x07 <br> b\u202e",
            "chosen": "c\x1b[2J\tx\ny <|im_end|>",
            "rejected": "d\x9b",
        }
    ]
    result = run(command, write_jsonl(tmp_path / "a.jsonl", rows))
    assert not set(result.output) & set("\x1b\x07\x9b\u202e")
    if command == "show":
        assert "a\\x1b[31m\\x1b]0;t\\x07" in result.output
        assert "c\\x1b[2J\tx\ny" in result.output


def test_findings_name_line_and_column_and_shares_are_of_all_rows(tmp_path: Path) -> None:
    ties = [
        {"question": f"q{i}", "answer_0": "yes", "answer_1": "no", "score_0": 0.0, "score_1": 0.0}
        for i in range(9)
    ]
    source = write_jsonl(tmp_path / "ties.jsonl", ties)
    source.write_text("\n" + source.read_text() + '{"a": NaN}\n')
    findings = tmp_path / "findings.jsonl"
    result = run("validate", source, "--findings", findings)
    assert "9  90.0%  tie" in result.output
    assert "1  10.0%  malformed" in result.output
    assert f"{source.name}:11:7 (row 10): not JSON" in result.output
    rows = [json.loads(line) for line in findings.read_text().splitlines()]
    places = [(one["row"], one["line"], one["column"], one["code"]) for one in rows]
    assert (10, 11, 7, "malformed") in places
    assert (1, 2, None, "tie") in places
    assert "none of 9 rows" not in run("convert", source, "-o", tmp_path / "o.jsonl").output
    result = run("convert", source, "-o", tmp_path / "o.jsonl", "--on-error", "drop")
    assert "none of 10 rows was written" in result.output


def test_dropped_rows_name_their_lines_in_arrays_too(tmp_path: Path) -> None:
    rows = ['{"prompt":"a","chosen":"b","rejected":"c"}'] * 3
    rows[1] = '{"prompt":"a","chosen":"b","rejected":"b"}'
    source = tmp_path / "a.json"
    for number in ("1", "2"):
        source.write_text("[\n" + ",\n".join(rows) + "\n]")
        run("convert", source, "-o", tmp_path / "o.jsonl", "--num-proc", number)
        (lost,) = (tmp_path / "o.dropped.jsonl").read_text().splitlines()
        assert json.loads(lost) == {
            "source": str(source),
            "row": 2,
            "line": 3,
            "column": None,
            "code": "chosen_eq_rejected",
            "reason": "chosen and rejected are equal",
        }


def test_messages_as_text_are_refused_in_json_lines(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "user", "content": "x"}])
    for text in (turns, "[{'role': 'user', 'content': 'x'}]"):
        rows = [{"prompt": text, "completion": "y"}]
        source = write_jsonl(tmp_path / "a.jsonl", rows)
        result = run("convert", source, "-o", tmp_path / "o.jsonl")
        assert "a.jsonl:1: 'prompt' is the text of a list of messages" in result.output
        assert "stringified_messages" in run("validate", source).output
    source = write_jsonl(
        tmp_path / "a.jsonl", [{"prompt": "[{'a': 1}]", "completion": turns + "."}]
    )
    assert run("convert", source, "-o", tmp_path / "o.jsonl").exit_code == 0


def test_near_repeats_are_found(tmp_path: Path) -> None:
    rows = [
        {"prompt": "How many apples are there in the basket on the table?", "completion": "Four."},
        {"prompt": "How many apples are there in the basket on the table ?", "completion": "Four."},
        {"prompt": "How long does it take to boil an egg?", "completion": "Four minutes."},
    ]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    assert "a.jsonl:2 (row 2): " in run("validate", source).output
    assert "near_duplicate" in run("validate", source).output


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("chosen_score", "rejected_score"),
        ("chosen_rating", "rejected_rating"),
        ("reward_chosen", "reward_rejected"),
    ],
)
def test_scores_beside_answers_are_compared(tmp_path: Path, better: str, worse: str) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", better: 1, worse: 2.5}]
    assert "negative_margin" in run("validate", write_jsonl(tmp_path / "a.jsonl", rows)).output


def test_a_template_that_needs_too_much_memory_ends_in_a_line() -> None:
    assert issubclass(MemoryError, TEMPLATE_ERRORS)
    assert issubclass(RecursionError, TEMPLATE_ERRORS)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("kind", ["file", "stream", "dictionary"])
def test_batches_of_arrow_are_measured_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, compression: str
) -> None:
    text = pa.array(["a" * 70_000, "b" * 30_000, ""])
    texts = text.dictionary_encode() if kind == "dictionary" else text
    table = pa.table({"prompt": ["q", "r", "s"], "completion": texts})
    source = tmp_path / "in.arrow"
    make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with make(str(source), table.schema, options=options) as writer:
        writer.write_table(table)
        writer.write_table(table)
    with source.open("rb") as stream:
        sizes = list(unpacked_sizes(stream))
    # 100 kB of text and the offsets of both columns; a dictionary is written once
    large = [size // 1000 for size in sizes if size > 1000]
    assert large == [100] * (1 if kind == "dictionary" else 2)
    assert [row.data["prompt"] for row in read_rows(source)] == ["q", "r", "s"] * 2
    monkeypatch.setattr(binary, "LARGEST_COPY", 99_000)
    with pytest.raises(DataError, match=r"in\.arrow: cannot be read: its batches") as raised:
        list(read_rows(source))
    assert raised.value.remedy == "write it again in smaller files, rows and batches"


def test_a_batch_that_is_not_compressed_is_as_large_as_its_file(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["q"]})
    with pa.ipc.new_file(str(tmp_path / "in.arrow"), table.schema) as writer:
        writer.write_table(table)
    whole = (tmp_path / "in.arrow").read_bytes()
    assert list(unpacked_sizes(io.BytesIO(whole))) == [0, 0]
    (tmp_path / "in.arrow").write_bytes(whole[:60] + b"\xff" * 40)
    with pytest.raises(DataError, match="not a complete Arrow file"):
        list(read_rows(tmp_path / "in.arrow"))


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow"])
def test_a_row_of_a_table_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    table = pa.table({"prompt": ["q"] * 3, "completion": ["a", "b" * 5000, "c"]})
    source = tmp_path / name
    if name == "in.parquet":
        pq.write_table(table, source)
    else:
        with pa.ipc.new_file(str(source), table.schema) as writer:
            writer.write_table(table)
    assert len(list(read_rows(source))) == 3
    monkeypatch.setattr(binary, "LARGEST_ROW", 4000)
    with pytest.raises(DataError, match="cannot be read: a row has more than"):
        list(read_rows(source))
    monkeypatch.setattr(binary, "LARGEST_COPY", 4000)
    monkeypatch.setattr(binary, "LONG_ROW", 1000)
    if name == "in.parquet":
        with pytest.raises(DataError, match="its groups of rows have over"):
            list(read_rows(source))
