"""Whole messages with their advice, of options, sources and rows that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import write_jsonl

from alignment.errors import AlignError
from data_tools.checks import known
from data_tools.convert.chatlm import merge
from data_tools.convert.output import STDOUT, check_output, json_line, named_for
from data_tools.formats import Unusable, adapted, by_name, located, parse_columns
from data_tools.formats.advice import columns_advice
from data_tools.formats.detect import BY_NAME, detect
from data_tools.formats.mapping import PARTS, Columns
from data_tools.formats.sources import Located, one_split
from data_tools.formats.turns import split_implicit
from data_tools.reading import Row

Json = dict[str, Any]
EXAMPLE = "as in --columns prompt=question,chosen=answer_good,rejected=answer_bad"
NAME_PARTS = "name the parts, as in --columns "
README = "see the formats in data_tools/README.md"


def said_by(call: Any, *args: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(AlignError) as caught:
        call(*args, **options)
    return caught.value.message, caught.value.remedy


@pytest.mark.parametrize(
    ("given", "message", "remedy"),
    [
        ("prmpt=a", "columns: 'prmpt' is no part", f"parts: {', '.join(PARTS)}"),
        ("prompt=a,instruction=b", "columns: 'prompt' is named twice",
         "name one column for each part"),
        ({}, "columns: no part is named", EXAMPLE),
        (" , ", "columns: no part is named", EXAMPLE),
        ({"prompt": True}, "columns: 'prompt' names no column", EXAMPLE),
        ({"prompt": None}, "columns: 'prompt' names no column", EXAMPLE),
        ("prompt= ", "columns: 'prompt=' is not PART=COLUMN", EXAMPLE),
        ("prompt=a, chosen", "columns: 'chosen' is not PART=COLUMN", EXAMPLE),
    ],
)  # fmt: skip
def test_columns_that_are_not_named_well(given: Any, message: str, remedy: str) -> None:
    assert said_by(parse_columns, given) == (message, remedy)


def test_columns_of_rows_that_are_joined() -> None:
    columns = parse_columns("prompt=a")
    assert said_by(columns.check_single, BY_NAME["oasst-flat"]) == (
        "columns: the rows of 'oasst-flat' are joined by their own columns", "leave --columns out",
    )  # fmt: skip
    columns.check_single(BY_NAME["pair"])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("alpaka", "did you mean alpaca or kto-alpaca or alpaca-eval?"),
        ("zzzz", f"known: {', '.join(sorted(BY_NAME))}"),
    ],
)
def test_a_format_that_is_unknown(name: str, remedy: str) -> None:
    assert said_by(by_name, name) == (f"--format {name}: no such format", remedy)


def test_codes_and_severities_that_are_unknown() -> None:
    advice = "codes are listed in data_tools/README.md; severities: info, warn, error"
    assert said_by(known, ["warn", "z", "tie", "a"]) == ("--fail-on a: no such code", advice)
    assert known(["warn", "tie"]) == {"warn", "tie"}


@pytest.mark.parametrize(
    ("path", "message", "remedy"),
    [
        ("in.jsonl", "this is one of the sources", "choose another name"),
        (".", "this is a folder", "name a file in it"),
        ("x.txt", ".txt files are not written", "wanted .jsonl, .json, .csv, .tsv (each also with "
         ".gz or .zst) or .parquet"),
        ("x.parquet.gz", ".gz files are not written", "wanted .jsonl, .json, .csv, .tsv (each also "
         "with .gz or .zst) or .parquet"),
    ],
)  # fmt: skip
def test_an_output_that_is_refused(path: str, message: str, remedy: str, tmp_path: Path) -> None:
    sources = [Located(tmp_path / "other.jsonl", None), Located(tmp_path / "in.jsonl", None)]
    out = tmp_path / path
    assert said_by(check_output, out, sources) == (f"-o {out}: {message}", remedy)
    check_output(tmp_path / "out.jsonl", sources)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("o.jsonl", "o.train.jsonl"), ("o.jsonl.gz", "o.train.jsonl.gz"), ("o", "o.train.jsonl"),
        ("o.v2.csv", "o.v2.train.csv"), ("o.v2", "o.v2.train.jsonl"),
    ],
)  # fmt: skip
def test_the_output_of_a_split(name: str, wanted: str) -> None:
    assert named_for(Path("a") / name, "train") == Path("a") / wanted
    assert named_for(Path("a") / name, "") == Path("a") / name


def test_splits_are_not_written_to_one_stream() -> None:
    assert named_for(STDOUT, "") == STDOUT
    assert said_by(named_for, STDOUT, "train") == (
        "-o -: the sources have several splits", "name a file, or --merge-splits",
    )  # fmt: skip


def test_a_row_as_a_line() -> None:
    assert json_line({"b": "é", "a": [1, None, 1.5]}) == '{"b":"é","a":[1,null,1.5]}\n'.encode()
    assert json_line({"b": "é", "a": 1 << 70}) == f'{{"b":"é","a":{1 << 70}}}\n'.encode()


@pytest.mark.parametrize(
    ("entry", "message", "remedy"),
    [
        ({"num_samples": 3, "subset": "x"}, "'num_samples' is not read",
         "name the file in 'file_name'"),
        ({"file_name": None}, "no 'file_name'", "name the file, or 'hf_hub_url'"),
        ({"formatting": "parquet"}, "formatting 'parquet' is not known", "alpaca or sharegpt"),
        ({"columns": {"prompt": "p", "answer": "r", "b": "r"}}, "column 'answer' is not known", ""),
    ],
)  # fmt: skip
def test_an_entry_of_a_list_that_is_refused(
    entry: Json, message: str, remedy: str, tmp_path: Path
) -> None:
    source = listed(tmp_path, {"file_name": "in.jsonl", **entry})
    assert said_by(located, source) == (f"{source}: {message}", remedy)


def listed(folder: Path, entry: Json, number: int = 1) -> str:
    write_jsonl(folder / "in.jsonl", [{}])
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({f"d{i}": entry for i in range(number)}), "utf-8")
    return f"{info}@d0"


def test_a_list_without_the_name(tmp_path: Path) -> None:
    info = listed(tmp_path, {}, number=12).removesuffix("@d0")
    assert said_by(located, f"{tmp_path}@other") == (
        f"{info}: no data set 'other'", "it has d0, d1, d2, d3, d4, d5, d6, d7, d8, d9",
    )  # fmt: skip
    assert said_by(located, f"{info}@d0", parse_columns("prompt=a")) == (
        f"{info}@d0: names its own columns", "leave --columns out",
    )  # fmt: skip
    Path(info).write_text("[1]", "utf-8")
    message, remedy = said_by(located, f"{info}@d0")
    assert (message.partition(": not a list of data sets: ")[0], remedy) == (info, "")


def test_a_weight_and_several_splits_are_refused(tmp_path: Path) -> None:
    for name in ("b.validation.jsonl", "a.train.jsonl", "c.train.jsonl"):
        write_jsonl(tmp_path / name, [{}])
    assert said_by(located, f"{tmp_path}/a.train.jsonl:0.5") == (
        f"{tmp_path}/a.train.jsonl:0.5: a weight is for the training data of a stage",
        f"leave it out: {tmp_path}/a.train.jsonl",
    )
    message, remedy = said_by(one_split, tmp_path)
    assert message.startswith(f"{tmp_path}: has the splits train, ")
    assert remedy == f"name the files of one: {tmp_path}/a.train.jsonl ..."


OPENAI = {"user": "user", "assistant": "assistant", "observation": "tool",
          "function": "function_call", "system": "system"}  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "columns"),
    [
        ({}, Columns({"prompt": "instruction", "input": "input", "completion": "output"},
                     BY_NAME["prompt-completion"], frozenset({"input"}))),
        ({"columns": {"prompt": "p", "system": "s"}},
         Columns({"text": "p"}, BY_NAME["text"])),
        ({"columns": {"prompt": "p", "response": "r", "system": "s", "images": ""}},
         Columns({"prompt": "p", "input": "input", "completion": "r", "system": "s"},
                 BY_NAME["prompt-completion"], frozenset({"input", "system"}))),
        ({"ranking": True},
         Columns({"instruction": "instruction", "output": "output", "input": "input"},
                 BY_NAME["alpaca-ranked"], frozenset({"input"}))),
        ({"ranking": True, "columns": {"chosen": "c", "rejected": "r", "history": "h"}},
         Columns({"prompt": "instruction", "input": "input", "chosen": "c", "rejected": "r",
                  "history": "h"}, BY_NAME["pair"], frozenset({"input", "history"}))),
        ({"columns": {"kto_tag": "k"}},
         Columns({"prompt": "instruction", "input": "input", "completion": "output",
                  "kto_tag": "k"}, BY_NAME["kto-alpaca"], frozenset({"input"}))),
        ({"formatting": "sharegpt", "columns": {"tools": "t"}},
         Columns({"messages": "conversations", "tools": "t"}, BY_NAME["messages"],
                 frozenset({"tools"}),
                 {"human": "user", "gpt": "assistant", "observation": "tool",
                  "function_call": "function_call", "system": "system"}, ("from", "value"))),
        ({"formatting": "openai", "ranking": True,
          "columns": {"messages": "m", "chosen": "c", "rejected": "r"},
          "tags": {"user_tag": "U", "content_tag": "what"}},
         Columns({"messages": "m", "chosen": "c", "rejected": "r"}, BY_NAME["messages-ranking"],
                 frozenset(),
                 {"U": "user", "assistant": "assistant", "tool": "tool",
                  "function_call": "function_call", "system": "system"}, ("role", "what"))),
        ({"formatting": "sharegpt", "columns": {"kto_tag": "k"}, "tags": {"role_tag": "who"}},
         Columns({"messages": "conversations", "kto_tag": "k"}, BY_NAME["kto-sharegpt"],
                 frozenset(),
                 {"human": "user", "gpt": "assistant", "observation": "tool",
                  "function_call": "function_call", "system": "system"}, ("who", "value"))),
    ],
)  # fmt: skip
def test_all_that_an_entry_says_of_its_columns(
    entry: Json, columns: Columns, tmp_path: Path
) -> None:
    source = listed(tmp_path, {"file_name": "in.jsonl", **entry})
    assert located(source) == [Located(tmp_path / "in.jsonl", columns)]


def test_presets_that_are_named_wrong(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "a", "rejected": "b"}])
    out = tmp_path / "out.jsonl"
    assert said_by(merge, [source], out) == (
        "--preset chatlm: all sources hold generated answers", "name the alpaca file too",
    )  # fmt: skip
    message, remedy = said_by(merge, [source], out, defects=frozenset({"y", "x"}))
    assert message == "--defect x: no such defect"
    assert remedy.startswith("known: ")


ASKED = {"role": "user", "content": "q"}
ANSWERED = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("row", "reason", "remedy"),
    [
        ({"q": "a", "good": "b", "bad": "c"}, "no known format: the row has 'q', 'good', 'bad'",
         f"{NAME_PARTS}prompt=q,chosen=good,rejected=bad"),
        ({"source": "a", "target": "b"}, "no known format: the row has 'source', 'target'",
         f"{NAME_PARTS}prompt=source,completion=target"),
        ({"n": 1}, "no known format: the row has 'n'", README),
        ({}, "no known format: the row has no keys", README),
        ({"data": [{"instruction": "q", "output": "a"}]}, "no known format: the row has 'data'",
         "if the rows are inside 'data': `jq -c '.data[]' FILE`"),
        ({"data": [{"instruction": "q", "output": "a"}], "v": 1, "n": 2},
         "no known format: the row has 'data', 'v', 'n'",
         "if the rows are inside 'data': `jq -c '.data[]' FILE`"),
        ({"data": [{"instruction": "q", "output": "a"}], "v": 1, "n": 2, "m": 3},
         "no known format: the row has 'data', 'v', 'n', 'm'",
         f"{NAME_PARTS}prompt=data.0.instruction,completion=data.0.output"),
    ],
)  # fmt: skip
def test_a_row_in_no_known_format(row: Json, reason: str, remedy: str) -> None:
    with pytest.raises(Unusable) as caught:
        detect(row)
    found = caught.value
    assert (found.code, found.reason, found.remedy) == ("unknown_format", reason, remedy)


FIRST = " if the first answer is the better one"


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"question": "a", "reply": "b", "reply2": "c"},
         f"prompt=question,chosen=reply,rejected=reply2{FIRST}"),
        ({"a": "x", "b": "y", "winner": "a"}, "prompt=a,chosen=winner,rejected=b"),
        ({"ask": "a", "model": "m", "response_a": "b", "response_b": "c", "winner": "model_a"},
         f"prompt=ask,chosen=response_a,rejected=response_b{FIRST}"),
        ({"a": "x", "wrong": "y", "b": "z"}, f"prompt=a,chosen=b,rejected=wrong{FIRST}"),
        ({"x": "1", "reply": "2", "y": "3"}, "prompt=x,completion=reply"),
        ({"system": "s", "history": "h", "y": " ", "x": "1"}, "prompt=x"),
        ({"text": "t", "title": "x"}, "prompt=text,completion=title"),
        ({"context": "c", "question": "q", "answer": "a"}, "prompt=question,completion=answer"),
        ({"title": "t", "url": "u"}, "prompt=title,completion=url"),
        ({"title": "t", "x": "u"}, "prompt=title,completion=x"),
        ({"title": "t", "x": "u", "y": "v"}, "prompt=x,completion=y"),
        ({"dialogue": [ASKED, ANSWERED]}, "messages=dialogue"),
        ({"dialogue": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
          "worst": "b"}, "messages=dialogue,rejected_messages=worst"),
        ({"dialogue": [ASKED], "good": "a", "bad": "b"},
         "prompt=dialogue,chosen=good,rejected=bad"),
        ({"dialogue": [ASKED, {"role": "bot", "content": "a"}], "n": 1}, "messages=dialogue"),
        ({"q": "a", "answers": {"text": ["b", "c"], "start": [1, 2]}},
         f"prompt=q,chosen=answers.text.0,rejected=answers.text.1{FIRST}"),
        ({"q": "a", "answers": {"text": ["b"], "start": [1]}},
         "prompt=q,completion=answers.text.0"),
        ({"q": "a", "l": ["0", "1", "2", "3", "4"]},
         "prompt=q,completion=l.0 if the answer is the first in 'l'"),
        ({"问题": "a", "回答": "b", "thumb": "1"}, "'prompt=问题,completion=回答,label=thumb'"),
        ({"item": {"question": "q", "id": "x", "output": {"content": "b"}}},
         "prompt=item.question,completion=item.output.content"),
        ({"a": {"b": {"c": {"d": "x"}}}}, "prompt=a.b.c.d"),
        ({"a": {"b": {"c": {"d": {"e": "x"}}}}}, ""),
        ({"a,b": "x", "c": "y"}, "prompt=c"),
        ({"a=b": "x", "thumb": "1"}, ""),
        ({"question of": "a", "the answer": "b"},
         "'prompt=question of,completion=the answer'"),
        ({"n": 1}, ""),
    ],
)  # fmt: skip
def test_the_advice_on_a_row(row: Json, advice: str) -> None:
    assert columns_advice(row) == (f"{NAME_PARTS}{advice}" if advice else "")


@pytest.mark.parametrize(
    ("row", "options", "advice"),
    [
        ({"prompt": "q", "answers": ["a", "b"]}, {"ranked": False},
         "prompt=prompt,completion=answers.0 if the answer is the first in 'answers'"),
        ({"prompt": "q", "answers": ["a"]}, {"ranked": False},
         "prompt=prompt,completion=answers.0"),
        ({"q": "a", "good": "b", "bad": "c"}, {"ranked": False}, "prompt=q,completion=good"),
        ({"text": "t", "body": "longer text"}, {"text": True}, "text=body"),
        ({"q": "the longest", "data": {"body": "text"}}, {"text": True}, "text=q"),
        ({"data": [ASKED, ANSWERED]}, {"text": True}, "messages=data"),
    ],
)  # fmt: skip
def test_the_advice_for_one_answer_or_a_text(row: Json, options: Json, advice: str) -> None:
    assert columns_advice(row, **options) == f"{NAME_PARTS}{advice}"


@pytest.mark.parametrize(
    ("name", "row", "code", "reason", "remedy"),
    [
        ("webgpt", {"question": 3, "answer_0": "a"}, "wrong_format",
         "not 'webgpt': 'question' is number, wanted object or text; no 'answer_1'; no 'score_0'; "
         "no 'score_1'", "leave --format out"),
        ("openai", {"input": [], "preferred_output": [], "non_preferred_output": []},
         "wrong_format", "not 'openai': 'input' is empty list, wanted object",
         "leave --format out"),
        ("prompt", {"prompt": 3}, "wrong_type",
         "'prompt' is the number 3, wanted a list of messages", ""),
        ("prompt", {"prompt": [3]}, "wrong_type",
         "prompt[0] is the number 3, wanted a message", ""),
        ("pair", {"q": "a"}, "missing", "no 'prompt': the row has 'q'", ""),
    ],
)  # fmt: skip
def test_a_row_that_is_not_in_the_format_that_is_named(
    name: str, row: Json, code: str, reason: str, remedy: str
) -> None:
    (found,) = (one.record for one in adapted([Row("f", 1, 1, row)], forced=by_name(name)))
    assert isinstance(found, Unusable)
    assert (found.code, found.reason, found.remedy) == (code, reason, remedy)


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ([ASKED, ANSWERED, ANSWERED], [ASKED, ANSWERED, {**ANSWERED, "content": "b"}],
         "chosen and rejected do not share a prompt of whole turns"),
        ([ASKED, ANSWERED], [ASKED], "chosen and rejected do not share a prompt of whole turns"),
        ([ANSWERED], [ANSWERED], "chosen and rejected do not share a prompt of whole turns"),
        ([ASKED, ASKED], [ASKED, ANSWERED], "chosen and rejected differ before the answer"),
    ],
)  # fmt: skip
def test_conversations_that_share_no_prompt(
    chosen: list[Json], rejected: list[Json], reason: str
) -> None:
    with pytest.raises(Unusable) as caught:
        split_implicit(chosen, rejected)
    assert (caught.value.code, caught.value.reason) == ("prompt_mismatch", reason)
