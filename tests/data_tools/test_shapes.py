"""What the training stages call: one shape a source, and messages that name the kind found."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import write_jsonl

from alignment.errors import DataError
from data_tools.formats import parse_columns
from data_tools.shapes import load_records, serve

SCORED = {"prompt": "q", "responses": ["x", "a", "b"], "scores": [2, 3, 1]}
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
U, A, B = (
    {"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
)


@pytest.mark.parametrize(
    ("kind", "row", "wanted"),
    [
        ("text", {"text": "t", "id": 3}, {"text": "t"}),
        ("sft", {"instruction": "q", "output": "a"}, {"prompt": "q", "completion": "a"}),
        ("sft", {"messages": [U, A]}, {"messages": [U, A]}),
        ("sft", PAIR, {"prompt": "q", "completion": "a"}),
        ("sft", SCORED, {"prompt": "q", "completion": "a"}),
        ("sft", {"chosen": [U, A], "rejected": [U, B]}, {"prompt": [U], "completion": [A]}),
        ("sft", {"prompt": [U], "completion": [A]}, {"prompt": [U], "completion": [A]}),
        ("sft", {"prompt": "q", "completion": [A]}, {"prompt": [U], "completion": [A]}),
        (
            "unpaired",
            {"prompt": "q", "completion": "a", "label": False},
            {"prompt": "q", "completion": "a", "label": False},
        ),
        ("preference", {"prompt": "q", "chosen": "a", "reject": "b", "id": 1}, PAIR),
        ("preference", SCORED, PAIR),
        (
            "preference",
            {"prompt": "q", "chosen": [U, A], "rejected": [U, B]},
            {"prompt": [U], "chosen": [A], "rejected": [B]},
        ),
        ("prompt", {"prompt": "q", "level": 2}, {"prompt": "q", "level": 2}),
        ("prompt", PAIR, PAIR),
        (
            "prompt",
            {"instruction": "q", "input": "i", "output": "a"},
            {"instruction": "q", "input": "i", "output": "a", "prompt": "q\ni"},
        ),
        ("prompt", {"messages": [U, A]}, {"messages": [U, A], "prompt": [U]}),
    ],
)
def test_a_row_in_the_shape_a_stage_asks_for(
    tmp_path: Path, kind: str, row: dict[str, Any], wanted: dict[str, Any]
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [row])
    assert list(load_records(path, kind=kind)) == [wanted]


def test_a_row_never_depends_on_other_rows(tmp_path: Path) -> None:
    mixed = [PAIR, {"prompt": [U], "chosen": [A], "rejected": [B]}]
    path = write_jsonl(tmp_path / "in.jsonl", mixed)
    for kind in ("preference", "sft", "unpaired", "prompt"):
        alone = []
        for number, row in enumerate(mixed):
            one = write_jsonl(tmp_path / f"{number}.jsonl", [row])
            alone += load_records(one, kind=kind)
        assert list(load_records(path, kind=kind)) == alone


def test_both_sides_of_a_pair_serve_unpaired(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [PAIR])
    assert list(load_records(path, kind="unpaired")) == [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "b", "label": False},
    ]


MESSAGES = [
    ("preference", [PAIR, {"prompt": "q", "chosen": "a"}], ":2: no 'rejected'; the row has"),
    ("preference", [{"prompt": "q", "chosen": "a"}], ":1: no 'rejected'; the row has"),
    ("preference", [{"prompt": "q", "reject": "b"}], ":1: no 'chosen'; the row has"),
    ("preference", [{**PAIR, "chosen": None}], ":1: 'chosen' is null, wanted"),
    ("preference", [PAIR, {**PAIR, "chosen": 3}], ":2: 'chosen' is number, wanted"),
    ("preference", [{**PAIR, "rejected": ""}], ":1: 'rejected' is empty"),
    ("preference", [{**PAIR, "prompt": " \u200b"}], ":1: 'prompt' is empty"),
    ("preference", [{"messages": [U, A]}], ":1: this looks like SFT data, format 'messages'"),
    ("preference", [{"prompt": "q"}], ":1: this looks like prompts without answers"),
    ("sft", [{"prompt": "q"}], ":1: this looks like prompts without answers"),
    ("sft", [{"text": "t"}], ":1: this looks like plain text, format 'text', wanted SFT data"),
    ("sft", [{"instruction": "q", "output": None}], ":1: 'output' is null, wanted"),
    ("sft", [{"messages": [{"role": "user", "content": None}]}], ":1: messages[0] holds null"),
    ("text", [PAIR], ":1: this looks like preference pairs, format 'pair', wanted plain text"),
    ("sft", [{"messages": [U, A], "label": True}], ":1: this looks like unpaired feedback (KTO)"),
]


@pytest.mark.parametrize(("kind", "rows", "message"), MESSAGES)
def test_what_does_not_serve_is_reported(
    tmp_path: Path, kind: str, rows: list[dict[str, Any]], message: str
) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError) as caught:
        list(load_records(path, kind=kind))
    assert str(caught.value).startswith(f"{path}{message}")


def test_bad_rows_are_reported_once_each_and_the_others_served(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    good = json.dumps(PAIR)
    path.write_text(f'{good}\n{{oops\n{{"prompt": "q", "completion": "x"}}\n{good}\n')
    errors: list[DataError] = []
    assert list(load_records(path, kind="preference", on_error=errors.append)) == [PAIR, PAIR]
    assert [str(e).partition(": ")[0] for e in errors] == [f"{path}:2:2", f"{path}:3"]


def test_no_rows_at_all_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text("[]")
    with pytest.raises(DataError, match="no rows"):
        list(load_records(path, kind="sft"))


@pytest.mark.parametrize(
    ("name", "kind", "count", "bad"),
    [
        ("permissive/oaast_rm_zh.json", "preference", 775, 0),
        ("permissive/oaast_sft_zh.json", "sft", 689, 0),
        ("permissive/hh_harmless_test.jsonl.gz", "preference", 2303, 9),
        ("derived/huozi_shape.bom.crlf.csv", "preference", 101, 1),
        ("permissive/mt_bench_zh_question.jsonl", "prompt", 80, 0),
        ("permissive/kto_en_demo.json", "preference", 0, 300),
    ],
)
def test_real_slices_serve_the_stages(
    shared_data: Path, name: str, kind: str, count: int, bad: int
) -> None:
    errors: list[DataError] = []
    rows = list(load_records(shared_data / name, kind=kind, on_error=errors.append))
    assert (len(rows), len(errors)) == (count, bad)


@pytest.mark.parametrize(
    ("row", "kind", "remedy"),
    [
        ({"prompt": "q", "output": ["a", "b"]}, "sft",
         "--columns prompt=prompt,completion=output.0 if the answer is the first in 'output'"),
        ({"prompt": "q", "output": ["a", "b"]}, "preference", "chosen=output.0,rejected=output.1"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "preference", None),
        ({"text": "some text"}, "prompt", "if each text is a prompt, --columns prompt=text"),
        ({"text": "some text"}, "sft", "plain text is what `align pt` learns from"),
    ],
)  # fmt: skip
def test_a_row_of_another_shape_gets_advice_that_gives_this_one(
    tmp_path: Path, row: dict[str, Any], kind: str, remedy: str | None
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    with pytest.raises(DataError) as raised:
        list(serve(source, kind=kind))
    if remedy is None:
        assert "--columns" not in str(raised.value.remedy)
        return
    assert remedy in str(raised.value.remedy)
    if "--columns " in remedy or "rejected=" in remedy:
        option = str(raised.value.remedy).partition("--columns ")[2].partition(" if ")[0]
        assert list(serve(source, kind=kind, columns=parse_columns(option)))
