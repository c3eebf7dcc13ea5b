"""One row of every format, what it becomes, and that it is told from all others."""

from typing import Any

import pytest
from format_rows import ROWS, TREE, A, B, S, U
from support import REPOSITORY

from alignment.errors import ConfigError
from data_tools.formats import FORMATS, Record, Unusable, adapted, by_name, detect
from data_tools.reading import Row

CASES = [(name, row, wanted) for name, rows in ROWS.items() for row, wanted in rows]


def essence(record: Record | Unusable) -> Any:
    """What a case says of a record: its parts, and margin or scores where there are any."""
    assert isinstance(record, Record)
    if record.kind == "preference":
        parts = (record.prompt, record.chosen, record.rejected)
        return parts if record.margin is None else (*parts, record.margin)
    if record.kind == "ranked":
        parts = (record.prompt, record.answers)
        return parts if record.scores is None else (*parts, record.scores)
    if record.kind == "unpaired":
        return (record.prompt, record.completion, record.label)
    if record.kind == "sft":
        return record.messages or (record.prompt, record.completion)
    return record.prompt or record.text


def records(row: dict[str, Any], name: str = "") -> list[Record | Unusable]:
    forced = by_name(name) if name else None
    return [one.record for one in adapted([Row("in.jsonl", 1, 1, row)], forced=forced)]


@pytest.mark.parametrize(("name", "row", "wanted"), CASES)
def test_a_row_is_known_and_read(name: str, row: dict[str, Any], wanted: Any) -> None:
    assert not by_name(name).auto or detect(row).name == name
    assert essence(records(row, name)[0]) == wanted


@pytest.mark.parametrize(("name", "row", "wanted"), CASES)
def test_the_order_of_keys_and_an_unknown_key_change_nothing(
    name: str, row: dict[str, Any], wanted: Any
) -> None:
    other = {"zzz_extra": 1.5, **dict(reversed(row.items()))}
    assert not by_name(name).auto or detect(other).name == name
    assert essence(records(other, name)[0]) == wanted


@pytest.mark.parametrize(("name", "row", "wanted"), CASES)
def test_a_format_names_all_columns_that_it_reads(
    name: str, row: dict[str, Any], wanted: Any
) -> None:
    seen: set[str] = set()

    class Watched(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            seen.add(key)
            return super().get(key, default)

        def __getitem__(self, key: str) -> Any:
            seen.add(key)
            return super().__getitem__(key)

    adapter = by_name(name)
    adapter.read(Watched(row))
    assert seen & row.keys() <= adapter.columns(tuple(row))


def test_every_format_has_a_row_here() -> None:
    shown = {*ROWS, "oasst-tree", "oasst-flat", "helpsteer"}
    named = {"alpaca-ranked", "ranked"}
    assert {adapter.name for adapter in FORMATS if adapter.auto} == shown - named


def test_a_tree_gives_a_ranking_a_node_and_says_which_are_unranked() -> None:
    assert detect(TREE).name == "oasst-tree"
    ranked, unranked = records(TREE)
    assert essence(ranked) == ([U], ([A], [B]))
    assert isinstance(unranked, Unusable)
    assert unranked.code == "unranked"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("pku-saferlhf", "b"), ("pku-saferlhf-safer", "a"), ("pku-saferlhf-both", None)],
)
def test_pku_goes_by_the_label_that_the_format_names(name: str, wanted: str | None) -> None:
    row = {
        "prompt": "q",
        "response_0": "a",
        "response_1": "b",
        "better_response_id": 1,
        "safer_response_id": 0,
    }
    (record,) = records(row, name)
    if wanted is None:
        assert isinstance(record, Unusable)
        assert record.reason == "the better answer is not the safer one"
    else:
        assert isinstance(record, Record)
        assert record.chosen == wanted


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "chosen": 3, "rejected": "b"}, None),
        ({"instruction": "q", "output": 3}, None),
        ({"a": 1}, "no known format: the row has 'a'"),
        ({"data": [{"prompt": "q"}]}, "no known format: the row has 'data'"),
        ({"messages": "x"}, "'messages' is text, wanted turns"),
        ({"conversations": None}, "'conversations' is null, wanted turns"),
        (
            {
                "instruction": "q",
                "output_1": "a",
                "output_2": "b",
                "preference": 1,
                "response_j": "a",
                "response_k": "b",
                "question": "q",
            },
            "the row fits two formats: alpaca-eval and stack-exchange",
        ),
    ],
)
def test_what_is_not_known_is_named(row: dict[str, Any], message: str | None) -> None:
    if message is None:  # the prompt alone is left to use
        assert detect(row).name == "prompt"
    else:
        with pytest.raises(Unusable) as caught:
            detect(row)
        assert caught.value.reason.startswith(message)


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"messages": []}, "empty"),
        ({"messages": [{"role": "asistant", "content": "x"}]}, "role"),
        ({"messages": [{"content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": None}]}, "null"),
        ({"messages": [{"role": "user", "content": 3}]}, "wrong_type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not_text"),
        ({"messages": [U]}, "no_answer"),
        ({"chosen": "a", "rejected": "b"}, "no_prompt"),
        ({"chosen": [U, A], "rejected": [S, B]}, "prompt_mismatch"),
        (
            {
                "chosen": "\n\nHuman: q\n\nAssistant: a",
                "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: b",
            },
            "prompt_mismatch",
        ),
        ({"text": ["x", "y"], "score": [1, 2]}, "no_markers"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1.0]}, "wrong_type"),
        ({"input": {}, "preferred_output": [A], "non_preferred_output": [B]}, "wrong_type"),
        (
            {"input": {"messages": [U]}, "preferred_output": [A, A], "non_preferred_output": [B]},
            "not_one_answer",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: dict[str, Any], code: str) -> None:
    (record,) = records(row)
    assert isinstance(record, Unusable)
    assert record.code == code


def test_only_the_exact_marker_parts_turns() -> None:
    row = {
        "chosen": "\n\nHuman: He said: Human: no\n\nAssistant: I, Assistant: agree",
        "rejected": "\n\nHuman: He said: Human: no\n\nAssistant: bad",
    }
    (record,) = records(row)
    assert isinstance(record, Record)
    assert record.prompt == [{"role": "user", "content": "He said: Human: no"}]
    assert record.chosen == [{"role": "assistant", "content": "I, Assistant: agree"}]


def test_the_readme_lists_every_format_with_its_keys_and_meaning() -> None:
    readme = (REPOSITORY / "data_tools/README.md").read_text("utf-8")
    rows = [line for line in readme.splitlines() if line.count("|") == 4]
    for adapter in FORMATS:
        keys = ", ".join(f"`{key}`" for key in adapter.needs)
        note = " (any alias)" if adapter.aliased else "" if adapter.auto else " (only by name)"
        meaning = (adapter.read.__doc__ or "").partition("\n")[0]
        assert f"| `{adapter.name}` | {keys}{note} | {meaning} |" in rows


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean alpaca"):
        by_name("alpacca")
