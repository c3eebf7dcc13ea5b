"""The encoding of a file: UTF-8 is never misread, others are found, named or refused."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from alignment.errors import ConfigError, DataError
from data_tools.cli import data
from data_tools.reading import checked_encoding, look, read_rows

CHINESE = [
    {"instruction": "解释光合作用", "output": "植物把阳光、水和二氧化碳变成养分，同时放出氧气。"},
    {"instruction": "为什么天空是蓝色的？", "output": "因为空气把蓝光散射得最多。"},
    {"instruction": "写一首关于春天的诗", "output": "春风吹过山坡，花儿开满了小路。"},
]
TRADITIONAL = [
    {"instruction": "解釋光合作用", "output": "植物把陽光、水和二氧化碳變成養分，同時放出氧氣。"},
    {"instruction": "為什麼天空是藍色的？", "output": "因為空氣把藍光散射得最多。"},
    {"instruction": "寫一首關於春天的詩", "output": "春風吹過山坡，花兒開滿了小路。"},
]


def lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(data, [str(one) for one in arguments], input=stdin)


@pytest.mark.parametrize(
    ("encoding", "rows", "found"),
    [
        ("gbk", CHINESE, "gb18030 (detected)"),
        ("gb18030", CHINESE, "gb18030 (detected)"),
        ("big5", TRADITIONAL, "big5 (detected)"),
        ("utf-16", CHINESE, "utf-16 (byte order mark)"),
        ("utf-16-le", CHINESE, "utf-16-le (detected)"),
        ("utf-16-be", CHINESE, "utf-16-be (detected)"),
        ("utf-32", CHINESE, "utf-32 (byte order mark)"),
        ("utf-8-sig", CHINESE, "utf-8"),
        ("utf-8", CHINESE, "utf-8"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_an_encoding_is_found_and_the_text_is_the_same(
    tmp_path: Path, encoding: str, rows: list[dict[str, str]], found: str, suffix: str
) -> None:
    text = {
        "jsonl": lines(rows),
        "json": json.dumps(rows, ensure_ascii=False),
        "csv": "instruction,output\n"
        + "".join(f"{r['instruction']},{r['output']}\n" for r in rows),
    }[suffix]
    path = written(tmp_path / f"a.{suffix}", text.encode(encoding))
    assert [row.data for row in read_rows(path)] == rows
    assert str(look(path).encoding) == found
    result = run("convert", path, "-o", tmp_path / "out.jsonl")
    assert (f"encoding {found} of {path}" in result.output) == (found != "utf-8")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 300])
@pytest.mark.parametrize("name", ["derived/alpaca_zh.json", "permissive/dpo_en_demo.json"])
def test_utf8_is_never_taken_for_another_encoding(
    tmp_path: Path, shared_data: Path, name: str, size: int
) -> None:
    text = (shared_data / name).read_text("utf-8")
    path = tmp_path / "a.txt"
    for start in range(0, len(text), len(text) // 40):
        path.write_bytes(b"x" + text[start : start + size].encode())
        assert look(path).encoding.name == "utf-8"


def test_real_chinese_is_read_right_or_refused_in_pieces_of_any_size(
    tmp_path: Path, shared_data: Path
) -> None:
    text = (shared_data / "derived/alpaca_zh.json").read_text("utf-8")
    path, refused = tmp_path / "a.txt", 0
    for size in (4, 10, 20, 40, 80, 200, 2000):
        for start in range(0, len(text), len(text) // 20):
            piece = text[start : start + size].encode("gbk", "ignore").decode("gbk")
            path.write_bytes(b"x" + piece.encode("gbk"))
            try:
                encoding = look(path).encoding.name
            except DataError:
                refused += 1
                continue
            # too few bytes to look at are reported with their row, and change no text
            if encoding != "utf-8":
                assert path.read_bytes().decode(encoding) == "x" + piece
    assert refused < 100


def test_little_text_is_refused_with_its_readings_and_the_option_works(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", lines([{"prompt": "你好", "completion": "好"}]).encode("gbk")
    )
    result = run("convert", path, "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert "gb18030 ('你好" in result.output
    assert "--encoding gb18030" in result.output
    result = run("convert", path, "-o", tmp_path / "out.jsonl", "--encoding", "gb18030")
    assert f"encoding gb18030 (as asked) of {path}" in result.output
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8"))["prompt"] == "你好"


@pytest.mark.parametrize("command", ["validate", "stats", "show"])
def test_every_command_reads_the_encoding_that_is_named(tmp_path: Path, command: str) -> None:
    path = written(
        tmp_path / "a.jsonl", lines([{"prompt": "你好", "completion": "好"}]).encode("gbk")
    )
    assert "--encoding gb18030" in run(command, path).output
    assert run(command, path, "--encoding", "gbk").exit_code == 0


def test_a_broken_character_is_reported_with_its_place(tmp_path: Path) -> None:
    broken = lines(CHINESE).encode("gb18030").replace("蓝色".encode("gb18030"), b"\xff\xff", 1)
    path = written(tmp_path / "a.jsonl", broken)
    with pytest.raises(DataError, match=r"a\.jsonl:2:\d+: a character is not gb18030"):
        list(read_rows(path, encoding="gb18030"))


def test_damage_in_utf8_is_that_of_its_row(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", lines(CHINESE * 9).encode() + b'{"prompt":"\xff\xfe\xff"}\n'
    )
    with pytest.raises(DataError, match=r"a\.jsonl:28:12: not UTF-8: byte 0xff"):
        list(read_rows(path))


def test_text_in_another_encoding_after_much_ascii_is_found(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", b'{"prompt":"a"}\n' * 90_000 + lines(CHINESE).encode("gbk")
    )
    assert str(look(path).encoding) == "gb18030 (detected)"


def test_a_named_encoding_must_exist_and_agree_with_the_mark(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encoding gbkk: no such encoding"):
        checked_encoding("gbkk")
    with pytest.raises(ConfigError, match="encoding rot13"):
        checked_encoding("rot13")
    path = written(tmp_path / "a.csv", "a,b\n1,2\n".encode("utf-8-sig"))
    assert run("convert", path, "-o", "x", "--encoding", "nope").exit_code == 2
    with pytest.raises(ConfigError, match="the byte order mark says utf-8, not gbk"):
        look(path, "gbk")
    assert look(path, "UTF8").encoding.name == "utf-8"


def test_a_reading_with_characters_of_private_use_is_not_the_right_one(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"請解釋第{i}個問題的含義，並舉例說明", "output": f"這是第{i}個問題的答案"}
        for i in range(30)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "in.jsonl").write_text(text, encoding="big5")
    assert [row.data for row in read_rows(tmp_path / "in.jsonl")] == rows
