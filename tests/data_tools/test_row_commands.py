"""Every command that reads rows reads the same sources, with the same options and messages."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from support import write_jsonl

from alignment.cli import main
from alignment.disk import digest_file
from alignment.errors import DataError
from alignment.evaluate.plan import read_prompts
from alignment.reject.rows import read_items
from data_tools.formats import texts_of_files
from data_tools.reading import read_rows
from data_tools.shapes import named_sources

ROWS = [{"q": f"问题{i}", "good one": f"好的回答{i}", "bad": f"坏的回答{i}"} for i in range(40)]
ADVICE = "--columns 'prompt=q,chosen=good one,rejected=bad'"
INFO = {
    "mine": {
        "file_name": "in.jsonl",
        "ranking": True,
        "columns": {"prompt": "q", "chosen": "good one", "rejected": "bad"},
    }
}
READERS = [("data", name) for name in (
    "convert", "validate", "stats", "split", "dedup", "leak", "show", "reject",
)] + [("eval",)]  # fmt: skip
#: What follows the source in a call.
CALLS = {
    "convert": "-o out.jsonl",
    "validate": "",
    "stats": "",
    "split": "--eval 0.3 -o out.jsonl",
    "dedup": "-o out.jsonl",
    "leak": "other.jsonl --ngram 0",
    "show": "",
}


def command_of(names: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for name in names:
        assert isinstance(found, click.Group)
        named = found.get_command(click.Context(found), name)
        assert named is not None
        found = named
    return found


@pytest.mark.parametrize("names", READERS, ids=" ".join)
def test_every_command_that_reads_rows_has_the_same_options(names: tuple[str, ...]) -> None:
    wanted = {o.name: o.help for o in command_of(("data", "convert")).params if _reads(o)}
    assert wanted.keys() == {"format", "columns", "encoding"}
    assert {o.name: o.help for o in command_of(names).params if _reads(o)} == wanted


def _reads(option: Any) -> bool:
    return option.name in ("format", "columns", "encoding")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    write_jsonl(tmp_path / "other.jsonl", [{**ROWS[3], "q": "又一个问题"}, ROWS[5]])
    text = Path("in.jsonl").read_text(encoding="utf-8")
    Path("gbk.jsonl").write_text(text, encoding="gb18030")
    listed = {**INFO, "gbk": {**INFO["mine"], "file_name": "gbk.jsonl"}}
    Path("dataset_info.json").write_text(json.dumps(listed, ensure_ascii=False), encoding="utf-8")
    return tmp_path


def run(name: str, source: str, *options: str) -> Any:
    return CliRunner().invoke(main, ["data", name, source, *shlex.split(CALLS[name]), *options])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", CALLS)
def test_the_advice_on_unknown_columns_works_in_every_command(name: str) -> None:
    failed = run(name, "in.jsonl")
    if name not in ("validate", "stats"):  # those count such rows
        assert failed.exit_code == 2
        assert ".jsonl:1: no known format: the row has 'q', 'good one', 'bad'" in failed.output
        assert ADVICE in failed.output
    followed = run(name, "in.jsonl", *shlex.split(ADVICE))
    assert followed.exit_code == (1 if name == "leak" else 0)
    assert "unknown_format" not in followed.output


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"leak"}))
def test_every_command_reads_a_listed_data_set_and_prints_its_encoding(name: str) -> None:
    done = run(name, "dataset_info.json@gbk")
    assert done.exit_code == 0
    assert "gb18030" in done.output
    assert "gbk.jsonl" in done.output
    wrong = run(name, "dataset_info.json@gbk", "--encoding", "utf-16-le")
    assert wrong.exit_code != 0 or name in ("validate", "stats")


@pytest.mark.usefixtures("folder")
def test_leaks_of_listed_data_sets_are_named_by_file_and_line() -> None:
    call = ["data", "leak", "dataset_info.json@gbk", "dataset_info.json@mine", "--ngram", "0"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 1
    assert "in.jsonl:3: 100% in gbk.jsonl:3\n" in done.output
    assert "gb18030" in done.output


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("source", ["in.jsonl", "dataset_info.json@gbk"])
def test_a_split_and_dedup_keep_named_columns_as_they_were(source: str) -> None:
    named = shlex.split(ADVICE) if source == "in.jsonl" else []
    assert run("split", source, *named).exit_code == 0
    parts = [list(read_rows(f"out.{side}.jsonl")) for side in ("train", "eval")]
    assert sorted((row.data for part in parts for row in part), key=str) == sorted(ROWS, key=str)
    assert all(parts)
    assert run("dedup", source, *named).exit_code == 0
    assert [row.data for row in read_rows("out.jsonl")] == ROWS


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("source", "columns"), [("in.jsonl", ADVICE.split("'")[1]), ("dataset_info.json@gbk", "")]
)
def test_reject_and_eval_read_named_columns(
    source: str, columns: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = named_sources([source], None, columns, None)
    items, unused = read_items(sources, kind="sft", limit=2)
    assert [(one.prompt, one.chosen, one.where) for one in items] == [
        (f"问题{i}", f"好的回答{i}", f"{sources.files[0].file}:{i + 1}") for i in range(2)
    ]
    assert unused == {"rejected": 2}
    asked = read_prompts(sources, 2)
    assert [one.record.prompt for one in asked] == ["问题0", "问题1"]
    assert capsys.readouterr().err.startswith("encoding: gb18030") == ("@" in source)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["reject", "eval"])
def test_reject_and_eval_give_the_advice_of_the_others(command: str) -> None:
    sources = named_sources(["in.jsonl"], None, None, None)
    call: Callable[[], object] = {
        "reject": lambda: read_items(sources, kind="sft"),
        "eval": lambda: read_prompts(sources, None),
    }[command]
    with pytest.raises(DataError) as raised:
        call()
    assert ADVICE in str(raised.value)
    assert str(raised.value).startswith("in.jsonl:1: ")


TREE = [
    {"message_id": "1", "parent_id": None, "role": "prompter", "text": "q"},
    {"message_id": "2", "parent_id": "1", "role": "assistant", "text": "a", "rank": 0},
    {"message_id": "3", "parent_id": "1", "role": "assistant", "text": "b", "rank": 1},
]
IDS = ("message_id", "parent_id")
HELPFUL = [
    {"prompt": "q", "response": text, "helpfulness": score, "correctness": score}
    for text, score in (("a", 4), ("b", 1))
]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("rows", [TREE, HELPFUL], ids=["tree", "rows of a prompt"])
def test_rows_that_belong_together_stay_together_and_as_they_were(rows: list[Any]) -> None:
    again = [{**row, **{k: f"again {row[k]}" for k in IDS if row.get(k)}} for row in rows]
    other = [{**row, "text": "other", "prompt": "other"} for row in again]
    write_jsonl(Path("flat.jsonl"), [*rows, *again] if rows is TREE else [*rows, *other, *rows])
    done = run("dedup", "flat.jsonl")
    out = [row.data for row in read_rows("out.jsonl")]
    assert out == (rows if rows is TREE else [*rows, *other])
    assert f"{len(out) + len(rows)} rows in, {len(out)} out" in done.output
    write_jsonl(Path("flat.jsonl"), rows)
    assert run("split", "flat.jsonl").exit_code == 0
    parts = [Path(f"out.{side}.jsonl").read_text("utf-8") for side in ("train", "eval")]
    assert sorted(text.count("\n") for text in parts) == [0, len(rows)]


@pytest.mark.usefixtures("folder")
def test_a_message_without_the_one_that_it_answers_is_counted() -> None:
    lost = {**TREE[1], "message_id": "9", "parent_id": "8"}
    rings = [{**TREE[1], "message_id": a, "parent_id": b} for a, b in (("x", "y"), ("y", "x"))]
    write_jsonl(Path("flat.jsonl"), [*TREE, lost, *rings])
    done = run("convert", "flat.jsonl")
    assert done.exit_code == 0
    assert "3  no_parent" in done.output
    assert "4 rows in, 1 out" in done.output


@pytest.mark.usefixtures("folder")
def test_a_split_of_standard_output_and_onto_its_source_is_refused() -> None:
    done = CliRunner().invoke(main, ["data", "split", "in.jsonl", "-o", "-"])
    assert done.output == "error: -o -: a split is several files\n  name them: -o out.jsonl\n"
    done = CliRunner().invoke(main, ["data", "split", "in.jsonl", "-o", "out.xlsx"])
    assert done.output.startswith("error: -o out.xlsx: .xlsx files are not written\n")
    write_jsonl(Path("out.train.jsonl"), ROWS)
    named = shlex.split(ADVICE)
    done = CliRunner().invoke(main, ["data", "dedup", "in.jsonl", "-o", "in.jsonl", *named])
    assert "-o in.jsonl: this is one of the sources" in done.output
    call = ["data", "split", "out.train.jsonl", "-o", "out.jsonl", *named]
    assert "this is one of the sources" in CliRunner().invoke(main, call).output


@pytest.fixture
def splits(folder: Path) -> Path:
    for name, rows in (("train", ROWS), ("test", ROWS[:3])):
        (folder / "d" / name).mkdir(parents=True)
        write_jsonl(folder / "d" / name / "data.jsonl", rows)
    return folder / "d"


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("name", ["split", "dedup", "leak"])
def test_the_splits_of_a_folder_are_not_joined(name: str) -> None:
    done = run(name, "d", *shlex.split(ADVICE))
    assert done.output == (
        "error: d: has the splits test, train\n  name the files of one: d/train/data.jsonl ...\n"
    )
    with pytest.raises(DataError, match="has the splits test, train"):
        named_sources(["d"], None, None, None)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("name", ["validate", "stats"])
def test_files_of_one_name_are_told_apart_by_their_folders(name: str) -> None:
    shown = run(name, "d", *shlex.split(ADVICE)).output
    assert "d/train/data.jsonl" in shown
    assert "d/test/data.jsonl" in shown
    assert "data.jsonl" in run(name, "d/test", *shlex.split(ADVICE)).output.replace("d/test/", "!")


def test_standard_input_that_is_not_json_is_to_be_saved_with_its_suffix() -> None:
    done = CliRunner().invoke(
        main, ["data", "convert", "-", "-o", "-"], input="prompt,answer\nq,a\n"
    )
    assert done.output == (
        "error: -:1:1: wanted rows, found 'prompt,answer\\n'\n"
        "  standard input has no name: save CSV, TSV or plain text in a file with its suffix\n"
    )


@pytest.mark.usefixtures("folder")
def test_the_digest_of_sources_is_that_of_a_file_and_depends_on_named_columns() -> None:
    def digest(source: str, columns: str | None = None) -> str:
        return named_sources([source], None, columns, None).digest()

    plain = digest("in.jsonl")
    assert plain == digest_file(Path("in.jsonl"))
    others = {digest("in.jsonl", "prompt=q"), digest("in.jsonl", "prompt=bad")}
    assert len(others | {plain, digest("dataset_info.json@mine")}) == 4


@pytest.mark.usefixtures("folder")
def test_a_corpus_is_read_from_any_data_file() -> None:
    wanted = "\n".join(text for row in ROWS for text in (row["bad"], row["good one"], row["q"]))
    for name in ("in.jsonl", "gbk.jsonl"):
        (text,) = texts_of_files(Path(name))
        assert sorted(text.split("\n")) == sorted(wanted.split("\n"))
    done = CliRunner().invoke(main, ["init-model", "tiny", "base", "--corpus", "no.txt"])
    assert isinstance(done.exception, DataError)
    assert str(done.exception).startswith("no.txt: no such file or folder")
