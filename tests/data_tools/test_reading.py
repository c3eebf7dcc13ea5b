"""Every kind of file, and every kind of damage: the message says where and what."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from alignment.errors import DataError
from data_tools.reading import data_files, json_rows, read_rows

ROWS: list[dict[str, Any]] = [
    {"prompt": "一", "chosen": 'b, "quoted"\n}, {"prompt": ', "rejected": "c"},
    {"prompt": "NA", "chosen": "null", "rejected": ""},
    {"prompt": "x", "chosen": "y", "rejected": "z"},
]


def as_csv(delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["prompt", "chosen", "rejected"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
FILES = {
    "a.json": json.dumps(ROWS).encode(),
    "indented.json": json.dumps(ROWS, indent=4, ensure_ascii=False).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "a.jsonl": LINES,
    "bom.crlf.jsonl": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n"),
    "array.jsonl": json.dumps(ROWS).encode(),
    "a.csv": as_csv(","),
    "bom.csv": b"\xef\xbb\xbf" + as_csv(","),
    "a.tsv": as_csv("\t"),
    "a.parquet": as_parquet(),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, packing: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packing]
    path = tmp_path / (name + packing)
    path.write_bytes(pack(FILES[name]))
    rows = list(read_rows(path))
    assert [row.data for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2, 3]


def test_csv_rows_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(FILES["a.csv"])
    assert [row.where for row in read_rows(path)] == [f"{path}:2", f"{path}:4", f"{path}:5"]


BROKEN = {
    "cut.json": (b'[{"a":1},\n{"a":', ":2:6: not JSON: the line breaks off"),
    "open.json": (b'[{"a":1},\n{"a":2}', ":2:8: the array is not closed: no ]"),
    "comma.json": (b'[\n{"a":1},\n]', ":2:8: a comma before the ]"),
    "nan.json": (b'[{"a":1},\n\n{"a":NaN}]', ":3:6: not JSON: unexpected character"),
    "deep.json": (b'[{"a":1},\n{\n"a":\n+1}]', ":4:1: not JSON"),
    "after.json": (b'[{"a":1}] x', ":1:9: not JSON"),
    "twice.json": (b'[{"a":1},{"b":{"c":1,"c":2}}]', ":1: the key 'c' appears twice"),
    "twice.jsonl": (b'{"a":"\\":"}\n{"a":1,"a":2}\n', ":2: the key 'a' appears twice"),
    "apart.json": (b'[{"a" :1,"b":1,"b":2}]', ":1: the key 'b' appears twice"),
    "slash.jsonl": (b'{"a\\\\":1,"b":"\\":","c":1,"c":2}\n', ":1: the key 'c' appears twice"),
    "utf8.jsonl": (b'{"a":1}\n{"a":"\xff"}\n', ":2:7: not UTF-8: byte 0xff"),
    "utf8.json": (b'[{"a":1},\n{"a":"\xff"}]', ":2:7: not UTF-8: byte 0xff"),
    "nul.jsonl": (b'{"a":"\x00"}\n', ":1:7: not JSON: unexpected control character"),
    "lone.jsonl": (b'{"a":"\\ud800"}\n', ":1:7: not JSON: no low surrogate"),
    "nest.jsonl": (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", ":1:1030: not JSON: depth limit"),
    "list.jsonl": (b'{"a":1}\n[1]\n', ":2: this row is a list, wanted an object"),
    "text.jsonl": (b'"x"\n', ":1: this row is a string, wanted an object"),
    "pretty.json": (b'{\n "a": 1,\n}\n', ":2:8: not JSON"),
    "empty.jsonl": (b"", ":1: the file is empty"),
    "blank.json": (b" \n\n", ":1: the file is empty"),
    "login.jsonl": (b"<!DOCTYPE html><html>", ":1: this is a web page"),
    "lfs.jsonl": (b"version https://git-lfs.github.com/spec/v1\n", ":1: this is a git-lfs pointer"),
    "notes.md": (b"hello", ":1:1: wanted rows, found 'hello'"),
    "fields.csv": (b"a,b\n1,2\n1,2,3\n", ":3: 3 fields, the header has 2"),
    "quote.csv": (b'a,b\n1,"x\n', ":2: not CSV"),
    "header.csv": (b"a,a\n1,2\n", ":1: the column 'a' appears twice"),
    "nul.csv": (b"a,b\n1,\x00\n", ":2: a NUL byte"),
    "utf8.csv": (b"a,b\n1,2\n1,\xff\n", ":3: not UTF-8: byte 0xff"),
    "cut.jsonl.gz": (gzip.compress(LINES * 100)[:-30], ": cannot be read"),
    "cut.jsonl.zst": (b"\x28\xb5\x2f\xfdgarbage", ": cannot be read"),
    "cut.parquet": (as_parquet()[:-10], ": cannot be read: not a complete Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_reported_with_its_place(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("name", "content", "kept", "lost"),
    [
        ("nan.json", b'[{"a":1},\n{"a":NaN},\n{"a":2}]', [1, 2], 1),
        ("cut.json", b'[{"a":1},\n{"a":2},{"a', [1, 2], 1),
        ("comma.json", b'[{"a":1},{"a":2},]', [1, 2], 1),
        ("bad.jsonl", b'{"a":1}\nx\n{"a":2}\n', [1, 2], 1),
        ("twice.json", b'[{"a":1},{"a":3,"a":4},{"a":2}]', [1, 2], 1),
        ("inside.json", b'[{"a":1,"b":"}, {"},\n{"a":NaN},{"a":2}]', [1, 2], 1),
    ],
)
def test_bad_rows_are_handed_over_and_the_others_kept(
    tmp_path: Path, name: str, content: bytes, kept: list[int], lost: int
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    errors: list[DataError] = []
    rows = list(read_rows(path, on_error=errors.append))
    assert [row.data["a"] for row in rows] == kept
    assert len(errors) == lost


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_an_array_reads_the_same_in_pieces_of_any_size(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"a": {"a": [{"a": i}, {"a": "}, {"}]}, "b": '"}, {"a": "' * (i % 3), "c": [{}, {}]}
        for i in range(40)
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, indent=1))
    monkeypatch.setattr(json_rows, "PIECE", piece)
    assert [row.data for row in read_rows(path)] == rows


def test_a_line_of_50_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"a": "x" * 50_000_000}) + "\n")
    (row,) = read_rows(path)
    assert len(row.data["a"]) == 50_000_000


def test_members_larger_than_a_piece_and_those_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"a": "x" * size, "b": {"a": size}} for size in (3, 5000, 1, 700, 90_000, 2)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    monkeypatch.setattr(json_rows, "PIECE", 1000)
    with path.open("rb") as stream:
        pieces = [raw for raw, _ in json_rows.array_pieces(stream)]
    assert len(pieces) > 2
    assert b"".join(pieces).strip() == path.read_bytes()[1:]
    assert [row.data for row in read_rows(path)] == rows


def test_a_folder_is_read_in_order_and_must_hold_one_kind(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"a": 2}\n')
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "README.md").write_text("not data")
    assert [row.data["a"] for row in read_rows(tmp_path)] == [1, 2]
    (tmp_path / "c.csv").write_text("a\n3\n")
    with pytest.raises(DataError, match=r"mixes CSV \(c.csv\) and JSON lines \(a.jsonl\)"):
        data_files(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(tmp_path / "gone.jsonl"))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("derived/huozi_shape.json", 383),
        ("derived/huozi_shape.csv", 383),
        ("derived/huozi_shape.bom.crlf.csv", 102),
        ("derived/rlhf_single_round_zh.train.parquet", 306),
        ("permissive/hh_harmless_test.jsonl.gz", 2312),
        ("permissive/oaast_rm_zh.json", 775),
    ],
)
def test_real_files_have_their_rows(shared_data: Path, name: str, rows: int) -> None:
    assert sum(1 for _ in read_rows(shared_data / name)) == rows


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_all_bytes_of_a_file_are_watched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(LINES) if name.endswith(".gz") else FILES[name])
    seen: list[int] = []
    assert len(list(read_rows(path, watch=lambda read: seen.append(len(read))))) == 3
    assert sum(seen) >= path.stat().st_size
