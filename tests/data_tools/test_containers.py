"""Kinds of files: what is read, as what, and what is refused with advice that works."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner, Result

from alignment.errors import DataError
from data_tools.cli import data
from data_tools.reading import binary, data_files, json_rows, opening, read_rows, split_of, tables

ROWS = [{"prompt": f"q{i}", "chosen": f"好{i}", "rejected": f"b{i}"} for i in range(3)]
TURNS = [
    {
        "prompt": [{"role": "user", "content": "say 'hi', \"now\""}],
        "chosen": [{"role": "assistant", "content": "hi\nyou"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(data, [str(one) for one in arguments], input=stdin)


def rows_of(path: Path | str) -> list[dict[str, Any]]:
    return [row.data for row in read_rows(path)]


def places(path: Path) -> list[str]:
    return [row.where.removeprefix(str(path)) for row in read_rows(path)]


ALPACA = {"instruction": "a", "output": "b"}
READ: dict[str, tuple[str, list[dict[str, Any]], list[str]]] = {
    "lines.txt": (
        "one\n\n 二 \r\nlast",
        [{"text": t} for t in ("one", " 二 ", "last")],
        [":1", ":3", ":4"],
    ),
    "rows.txt": ('{"text": "a"}\n', [{"text": "a"}], [":1"]),
    "brackets.txt": (
        "[1] first\n{x} y\n",
        [{"text": "[1] first"}, {"text": "{x} y"}],
        [":1", ":2"],
    ),
    "array.json": (
        '[{"a":1},\n {"a":{"b":[{},{}]}},{"a":3}]',
        [{"a": 1}, {"a": {"b": [{}, {}]}}, {"a": 3}],
        [":1", ":2", ":2"],
    ),
    "indented.json": ('{\n "instruction": "a",\n "output": "b"\n}\n', [ALPACA], [":1"]),
    "joined.json": ('{"a":1}{"a":2}\n {"a":3}', [{"a": 1}, {"a": 2}, {"a": 3}], [":1", ":1", ":2"]),
    "objects.json": ('{\n"a":1\n}\n{\n"a":2\n}\n', [{"a": 1}, {"a": 2}], [":1", ":4"]),
    "wrapped.json": (
        '{\n"version": 1,\n"data": [\n{"a":1},\n{"a":2}]}',
        [{"a": 1}, {"a": 2}],
        [":4", ":5"],
    ),
    "one_line.json": ('{"version":1,"data":[{"a":1},{"a":2}]}', [{"a": 1}, {"a": 2}], [":1", ":1"]),
    "split.json": ('{"train":[{"a":1}],"test":[]}', [{"a": 1}], [":1"]),
    "columns.json": (
        '{"prompt":["a","b"],"chosen":["c","d"]}',
        [{"prompt": "a", "chosen": "c"}, {"prompt": "b", "chosen": "d"}],
        [":1", ":1"],
    ),
    "pandas.json": (
        '{"a":{"0":"x","1":"y"},"b":{"0":"z","1":null}}',
        [{"a": "x", "b": "z"}, {"a": "y", "b": None}],
        [":1", ":1"],
    ),
    "turns.json": (
        json.dumps({"messages": [{"role": "user", "content": "x"}]}),
        [{"messages": [{"role": "user", "content": "x"}]}],
        [":1"],
    ),
    "scores.json": (
        '{"text":["a","b"],"score":[1,2]}',
        [{"text": ["a", "b"], "score": [1, 2]}],
        [":1"],
    ),
    "sep.csv": ("sep=;\r\nprompt;chosen\r\na,x;b\r\n", [{"prompt": "a,x", "chosen": "b"}], [":3"]),
    "semicolon.csv": ("prompt;chosen\na,x;b\n", [{"prompt": "a,x", "chosen": "b"}], [":2"]),
    "tabs.csv": ("prompt\tchosen\na, x\tb\n", [{"prompt": "a, x", "chosen": "b"}], [":2"]),
    "one_column.csv": ("text\na;b\n", [{"text": "a;b"}], [":2"]),
    "index.csv": (
        ",prompt,chosen\n0,a,b\n1,c,d\n",
        [{"prompt": "a", "chosen": "b"}, {"prompt": "c", "chosen": "d"}],
        [":2", ":3"],
    ),
    "trailing.csv": (
        "prompt,chosen,\r\na,b,\r\n,,\r\nc,d\r\n",
        [{"prompt": "a", "chosen": "b"}, {"prompt": "c", "chosen": "d"}],
        [":2", ":4"],
    ),
    "capitals.csv": (" Prompt ,CHOSEN\na,b\n", [{"prompt": "a", "chosen": "b"}], [":2"]),
    "some_capitals.csv": (
        "human_ref_A,Labels\na,b\n",
        [{"human_ref_A": "a", "Labels": "b"}],
        [":2"],
    ),
    "json_cells.csv": (
        'prompt\n"[{""role"": ""user"", ""content"": ""x""}]"\n',
        [{"prompt": [{"role": "user", "content": "x"}]}],
        [":2"],
    ),
    "repr_cells.csv": (
        "prompt\n\"[{'role': 'user', 'content': \"\"it's\"\"}]\"\n",
        [{"prompt": [{"role": "user", "content": "it's"}]}],
        [":2"],
    ),
    "other_cells.csv": ('output\n"[{""name"": ""x""}]"\n', [{"output": '[{"name": "x"}]'}], [":2"]),
    "quotes.csv": ('a,b\nsay "hi" now,x\n', [{"a": 'say "hi" now', "b": "x"}], [":2"]),
}


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_and_its_rows_know_their_lines(tmp_path: Path, name: str) -> None:
    text, rows, lines = READ[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert rows_of(path) == rows
    assert places(path) == lines


REFUSED = {
    "several.json": (
        '{"train":[{"a":1}],"test":[{"a":2}]}',
        r":1: an object with several lists of rows: 'train', 'test'",
    ),
    "comment.jsonl": ('// x\n{"prompt":"a"}\n', r":1: this is a comment"),
    "later.jsonl": (
        '{"prompt":"a"}\n  // x\n{"prompt":"b"}\n',
        r":2:3: a comment, which JSON does not have",
    ),
    "cut.json": ('{\n"a": 1,\n"b": ', r":3:6: not JSON: the line breaks off"),
    "bad.json": ('{\n"a": 1,\n"b": x\n}', r":3:6: not JSON"),
    "loose.csv": ('a,b\n"e" f,g\n', r":2: not CSV: ',' expected after"),
    "open.csv": ('a,b\n"e,g\n', r":2: not CSV: unexpected end of data"),
    "numpy.csv": (
        "prompt\n\"[{'role': 'user', 'content': 'x'}\n {'role': 'user', 'content': 'y'}]\"\n",
        r":2: 'prompt': the text of a NumPy array",
    ),
    "extra.csv": ("a,b\n1,2,3\n", r":2: 3 fields, the header has 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    with pytest.raises(DataError, match=message) as caught:
        rows_of(path)
    assert caught.value.remedy or name == "bad.json"


@pytest.mark.parametrize(
    ("name", "line", "rows"),
    [
        ("several.json", "jq -c '.train[]' FILE > train.jsonl", [{"a": 1}]),
        ("comment.jsonl", "grep -v '^ *//' FILE > rows.jsonl", [{"prompt": "a"}]),
        ("later.jsonl", "grep -v '^ *//' FILE > rows.jsonl", [{"prompt": "a"}, {"prompt": "b"}]),
    ],
)
def test_the_advice_works_when_followed(
    tmp_path: Path, name: str, line: str, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path / name
    path.write_text(REFUSED[name][0], "utf-8")
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert line in caught.value.remedy
    done = subprocess.run(line.replace("FILE", name), shell=True, cwd=tmp_path, check=False)
    if done.returncode == 127:
        pytest.skip("the tool of the advice is not installed")
    assert rows_of(tmp_path / line.rpartition(" ")[2]) == rows


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    # what `map` leaves beside the data is no data
    (tmp_path / "one/cache-1.arrow").write_bytes(
        (tmp_path / "one/data-00000-of-00001.arrow").read_bytes()
    )
    assert rows_of(tmp_path / "one") == ROWS
    splits = {"train": Dataset.from_list(ROWS[:2]), "test": Dataset.from_list(ROWS[2:])}
    DatasetDict(splits).save_to_disk(tmp_path / "two")
    assert [split_of(file) for file in data_files(tmp_path / "two")] == ["train", "test"]
    result = run("convert", tmp_path / "two", "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 0
    assert len(rows_of(tmp_path / "out.train.jsonl")) == 2
    assert len(rows_of(tmp_path / "out.test.jsonl")) == 1


def test_a_download_from_the_hub(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data/train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "dataset_infos.json").write_text('{"default":{"features":{}}}')
    (tmp_path / "LICENSE.txt").write_text("MIT")
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/x.json").write_text("{}")
    assert rows_of(tmp_path) == ROWS


def test_an_arrow_file_of_either_kind(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    for name, opened in (("a.arrow", pa.ipc.new_stream), ("b.arrow", pa.ipc.new_file)):
        with opened(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
        assert rows_of(tmp_path / name) == ROWS
    (tmp_path / "cut.arrow").write_bytes((tmp_path / "b.arrow").read_bytes()[:-40])
    with pytest.raises(DataError, match="not a complete Arrow file"):
        rows_of(tmp_path / "cut.arrow")


@pytest.mark.parametrize("rows", [ROWS, TURNS], ids=["text", "turns"])
@pytest.mark.parametrize(
    "name", ["o.jsonl", "o.json", "o.csv", "o.tsv", "o.parquet", "o.jsonl.gz", "o.csv.zst"]
)
def test_the_name_of_an_output_decides_its_kind(
    tmp_path: Path, name: str, rows: list[dict[str, Any]]
) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps(rows), "utf-8")
    result = run("convert", source, "-o", tmp_path / name)
    assert result.exit_code == 0, result.output
    # all columns are read back as they are in JSON lines
    assert run("convert", source, "-o", tmp_path / "plain.jsonl").exit_code == 0
    numbers = {"source_row": int}
    back = [
        {key: numbers.get(key, lambda value: value)(value) for key, value in row.items()}
        for row in rows_of(tmp_path / name)
    ]
    assert back == rows_of(tmp_path / "plain.jsonl")
    magic = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".parquet": b"PAR1"}
    assert (tmp_path / name).read_bytes().startswith(magic.get(Path(name).suffix, b""))


def test_parquet_keeps_what_has_no_plain_type(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "weight": 0},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "margin": 1,
        },
        {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "margin": 0.5,
        },
    ]
    source = tmp_path / "in.json"
    source.write_text(json.dumps(rows), "utf-8")
    assert run("convert", source, "-o", tmp_path / "o.parquet").exit_code == 0
    first, second = rows_of(tmp_path / "o.parquet")
    assert first["messages"] == rows[0]["messages"]
    assert second["messages"] == rows[1]["messages"]
    assert json.loads(first["tools"]) == rows[0]["tools"]


def test_outputs_by_split_keep_their_kind(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps(ROWS))
    sources = [tmp_path / "train.json", tmp_path / "test.json"]
    assert run("convert", *sources, "-o", tmp_path / "o.csv.gz").exit_code == 0
    assert len(rows_of(tmp_path / "o.train.csv.gz")) == 3
    assert "--merge-splits" in run("convert", *sources, "-o", "-").output


@pytest.mark.parametrize("name", ["o.xlsx", "o.arrow", "o.parquet.gz"])
def test_other_kinds_of_output_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in.json").write_text(json.dumps(ROWS))
    result = run("convert", tmp_path / "in.json", "-o", tmp_path / name)
    assert result.exit_code == 2
    assert "files are not written" in result.output
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "content",
    [json.dumps(ROWS).encode(), gzip.compress(json.dumps(ROWS).encode()), None],
    ids=["json", "gzip", "parquet"],
)
def test_standard_input_and_output(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
        content = (tmp_path / "a.parquet").read_bytes()
    result = run("convert", "-", "-o", "-", stdin=content)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["chosen"] for row in rows] == ["好0", "好1", "好2"]
    assert "3 rows in, 3 out" in result.stderr
    assert "3 rows, 3 records" in run("validate", "-", stdin=content).output


def test_standard_input_of_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_tools", "convert", "-", "-o", "-"]
    bad = b'{"prompt":"a","chosen":"b","rejected":"c"}\n\n{"prompt":}\n'
    done = subprocess.run(command, input=bad, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: -:3:11: not JSON")


class Book:
    """An Excel file that is made with openpyxl."""

    def __init__(self, path: Path, **sheets: list[list[Any]]) -> None:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        book.remove(book.active)
        for name, rows in sheets.items():
            sheet = book.create_sheet(name)
            for row in rows:
                sheet.append(row)
        book.save(path)


def test_an_excel_file(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    rows = [
        ["prompt", "chosen ", "label", None],
        ["问\n题", 3, True, None],
        [],
        ["b", None, False, None],
    ]
    Book(path, Data=rows, Empty=[])
    assert rows_of(path) == [
        {"prompt": "问\n题", "chosen": 3, "label": True},
        {"prompt": "b", "chosen": "", "label": False},
    ]
    assert places(path) == [":2", ":4"]


def test_excel_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    Book(path, One=[["prompt"], ["a"]], Two=[["prompt"], ["b"]])
    with pytest.raises(DataError, match="several sheets have rows: 'One', 'Two'"):
        rows_of(path)
    Book(path, One=[["prompt"], ["x" * 32_767]])
    with pytest.raises(
        DataError, match=r"xlsx:2: 'prompt' has 32,767 characters, where Excel cuts"
    ):
        rows_of(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="not a complete Excel file"):
        rows_of(path)


def test_packed_rows_that_would_fill_the_memory_end_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "LARGEST_ROW", 1 << 20)
    monkeypatch.setattr(tables, "LARGEST_CELL", 1 << 20)
    monkeypatch.setattr(opening, "LARGEST_COPY", 1 << 20)
    text = b'{"text":"' + b"0" * (4 << 20)
    for name, content in (
        ("a.jsonl.gz", gzip.compress(text)),
        ("a.json.gz", gzip.compress(b"[" + text)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read: .*1 MiB"):
            rows_of(tmp_path / name)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text\n" + b"0" * (4 << 20)))
    with pytest.raises(DataError, match=r"a\.csv\.gz:2: a field of more than 1 MiB"):
        rows_of(tmp_path / "a.csv.gz")
    (tmp_path / "a.parquet.zst").write_bytes(
        zstandard.ZstdCompressor().compress(b"PAR1" + b"0" * (4 << 20))
    )
    with pytest.raises(DataError, match=r"cannot be read: larger than"):
        rows_of(tmp_path / "a.parquet.zst")


def test_a_text_that_many_rows_of_parquet_repeat_is_held_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": ["0" * (1 << 16)] * 2000}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 16
    monkeypatch.setattr(binary, "LARGEST_ROW", 1 << 17)
    rows = 0
    for batch in binary.parquet_rows((tmp_path / "a.parquet").open("rb")):
        rows += len(batch[1]["text"]) == 1 << 16
    assert rows == 2000


def test_columns_are_named_as_the_header_has_them(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("Question,Good,Bad\nq,g,b\n")
    for names in (
        "prompt=Question,chosen=Good,rejected=Bad",
        "prompt=question,chosen=good,rejected=bad",
    ):
        assert run("convert", source, "-o", tmp_path / "o.jsonl", "--columns", names).exit_code == 0
        (row,) = rows_of(tmp_path / "o.jsonl")
        assert (row["prompt"], row["chosen"], row["rejected"]) == ("q", "g", "b")


def test_an_array_whose_rows_begin_with_different_keys_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "PIECE", 256)
    monkeypatch.setattr(json_rows, "LARGEST_ROW", 256 * 1000)
    rows = [{"x": 0, "y": 0}, *({"y": i, "x": [{"z": i}, {"z": 1}]} for i in range(3000))]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert rows_of(tmp_path / "a.json") == rows
    assert places(tmp_path / "a.json")[-1] == ":1"
