"""Every column of every format is used, named as unused, or refused: none vanishes."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from format_rows import ROWS, TREE
from support import write_jsonl

from data_tools.formats import (
    BY_NAME,
    Example,
    Record,
    Unusable,
    adapted,
    adapted_batches,
    examples,
    parse_columns,
)
from data_tools.reading import Row

TEXT = "MARK of a text that is in no other column"
#: Columns that files have beside those of a format, each with a value that says something.
COLUMNS: dict[str, Any] = {
    "system": TEXT, "system_prompt": TEXT, "system_message": TEXT, "history": [[TEXT, TEXT]],
    "input": TEXT, "context": TEXT, "tools": [{"name": TEXT}], "chat_template_kwargs": {"k": TEXT},
    "images": [TEXT], "image": {"bytes": b"x"}, "videos": [TEXT], "audios": [TEXT],
    "image_url": TEXT, "photo": b"x", "reasoning_content": TEXT, "thinking": TEXT,
    "reasoning": TEXT, "rejected_messages": [{"role": "assistant", "content": TEXT}],
    "rejected_response": TEXT, "score": 7.5, "rating": 3, "评分": 4, "scores": [1, 2],
    "reward": -0.5, "margin": 2.5, "score_chosen": 5, "weight": 0, "loss_weight": 0.5,
    "loss_mask": [0, 1], "label": True, "chosen": TEXT, "rejected": TEXT, "completion": TEXT,
    "response": TEXT, "output": TEXT, "question": TEXT, "text": TEXT, "passage": TEXT,
    "notes": TEXT, "meta": {"note": TEXT}, "tags": [TEXT], "objects": [{"k": {"l": TEXT}}],
}  # fmt: skip
#: Keys that files have inside turns and other objects.
KEYS: dict[str, Any] = {
    "note": TEXT, "score": 0.5, "reward": 1.0, "weight": 0, "loss": False, "loss_mask": 0,
    "mask": 1, "training": False, "reasoning_content": TEXT, "images": [TEXT], "model": TEXT,
    "object": {"a": [TEXT]},
}  # fmt: skip
FORMATS = [name for name in ROWS if name not in ("oasst-tree", "oasst-flat", "helpsteer")]


def read(row: dict[str, Any], name: str) -> list[Example]:
    forced = None if BY_NAME[name].auto else BY_NAME[name]
    return list(adapted([Row("in.jsonl", 1, 1, row)], forced=forced))


def is_silent(row: dict[str, Any], bare: str, key: str, name: str) -> bool:
    found = read(row, name)
    if any(isinstance(one.record, Unusable) or one.more for one in found):
        return False
    if any(key in column for one in found for column in one.unused):
        return False
    return repr([one.record for one in found]) == bare


@pytest.mark.parametrize("name", FORMATS)
def test_no_column_vanishes(name: str) -> None:
    for row, _ in ROWS[name]:
        bare = repr([one.record for one in read(row, name)])
        more = {column: value for column, value in COLUMNS.items() if column not in row}
        silent = [c for c, value in more.items() if is_silent({**row, c: value}, bare, c, name)]
        assert silent == []


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in a value."""
    if isinstance(value, dict):
        yield value
    members = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for one in members:
            yield from objects(one)


@pytest.mark.parametrize("name", FORMATS)
def test_no_key_inside_a_column_vanishes(name: str) -> None:
    row, _ = ROWS[name][0]
    bare = repr([one.record for one in read(row, name)])
    silent = []
    for at in range(1, len(list(objects(row)))):
        for key, value in KEYS.items():
            changed = copy.deepcopy(row)
            part = list(objects(changed))[at]
            if key not in part:
                part[key] = value
                silent += [(at, key)] if is_silent(changed, bare, key, name) else []
    assert silent == []


def test_what_is_read_of_a_column_is_not_named() -> None:
    for name in FORMATS:
        for row, _ in ROWS[name]:
            found = {column for one in read(row, name) for column in one.unused}
            inside = {column for column in found if column not in row}
            assert inside <= {"turns[]", "question.dataset", "responses_and_scores[].source"}


def test_the_later_turns_of_a_bench_and_unranked_messages_of_a_tree_are_named() -> None:
    (bench,) = read({"question_id": 1, "turns": ["q", "and then?"], "category": "c"}, "mt-bench")
    assert bench.unused == ("category", "turns[]")
    tree = copy.deepcopy(TREE)
    tree["prompt"]["replies"][0]["replies"] = [
        {"message_id": "x", "role": "prompter", "text": TEXT, "replies": []}
    ]
    unused = next(iter(adapted([Row("in.jsonl", 1, 1, tree)]))).unused
    assert "prompt.replies[].text" in unused


@pytest.mark.parametrize(
    ("row", "margin"),
    [
        ({"messages": ROWS["ms-swift"][0][0]["messages"], "rejected_response": "b"}, 3),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, 3),
        ({"query": "q", "response": "a", "rejected_response": "b"}, 3),
    ],
)
def test_every_pair_has_the_margin_of_its_scores(row: dict[str, Any], margin: float) -> None:
    for scores in ({"margin": 3}, {"score_chosen": 5, "score_rejected": "2"}):
        (found,) = adapted([Row("in.jsonl", 1, 1, {**row, **scores})])
        assert isinstance(found.record, Record)
        assert (found.record.margin, found.unused) == (margin, ())
    (found,) = adapted([Row("in.jsonl", 1, 1, {**row, "score_chosen": 5})])
    assert found.unused == ("score_chosen",)


def test_a_weight_of_1_is_no_weight_and_prompts_keep_their_scores() -> None:
    (one,) = adapted([Row("in.jsonl", 1, 1, {"prompt": "q", "completion": "a", "weight": 1.0})])
    assert isinstance(one.record, Record)
    (other,) = adapted([Row("in.jsonl", 1, 1, {"prompt": "q", "score": 3})])
    assert (other.more, other.unused) == (None, ("score",))


def test_joined_rows_name_a_column_that_only_a_later_one_fills(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "response": a, "helpfulness": n, "correctness": n, "note": note}
        for a, n, note in (("a", 2, ""), ("b", 1, "n"))
    ]
    (one,) = examples(write_jsonl(tmp_path / "in.jsonl", rows))
    assert one.unused == ("note",)
    assert json.dumps(one.row.originals) == json.dumps(rows)


def test_scores_inside_a_column_that_is_named_by_a_path_are_not_lost() -> None:
    answers = [{"text": "a", "score": 1}, {"text": "b", "score": 3}]
    columns = parse_columns("prompt=prompt,chosen=responses.0.text,rejected=responses.1.text")
    row = Row("in.jsonl", 1, 1, {"prompt": "q", "responses": answers, "ids": [1, 2]})
    ((found,),) = adapted_batches([[row]], columns=columns, forced=columns.adapter)
    assert found.unused == ("responses[].score",)


def test_advice_on_an_answer_in_a_list_says_that_it_may_be_another_one() -> None:
    choice = {"question": "q", "options": ["x", "y"], "answer_idx": 1}
    (found,) = read(choice, "prompt")
    assert found.more is not None
    assert found.more.remedy.endswith(
        "completion=options.0 if the answer is the first in 'options'"
    )
