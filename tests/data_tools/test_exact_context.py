"""Exact records of a question with what belongs to it, of columns that are renamed or not read."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support import write_jsonl

from data_tools.formats import (
    Record,
    Unusable,
    adapted,
    by_name,
    examples,
    read_options,
    sound_rows,
)
from data_tools.formats.columns import PARTS_BESIDE, more_than, passed_over, unread
from data_tools.formats.context import margin_of, refuse_media, refuse_weights, with_context
from data_tools.formats.mapping import Columns, parse_columns
from data_tools.formats.record import (
    flag,
    is_filled,
    json_value,
    listed,
    members,
    number,
    shown,
    text,
    with_template_inputs,
)
from data_tools.formats.sources import Located, _place
from data_tools.reading import Row

Json = dict[str, Any]


def turn(role: str, content: str) -> Json:
    return {"role": role, "content": content}


S, U, A, B = turn("system", "s"), turn("user", "q"), turn("assistant", "a"), turn("assistant", "b")
OLD = [turn("user", "x"), turn("assistant", "y")]


def refused(call: Any, *args: Any) -> tuple[str, str, str]:
    with pytest.raises(Unusable) as caught:
        call(*args)
    return caught.value.code, caught.value.reason, caught.value.remedy


PAIR = Record("preference", "q", "a", "b")
CHAT = Record("sft", messages=[U, A])


@pytest.mark.parametrize(
    ("record", "data", "wanted"),
    [
        (PAIR, {}, PAIR),
        (PAIR, {"system": " ", "history": "[]", "tools": None}, PAIR),
        (PAIR, {"system": "s"}, Record("preference", [S, U], [A], [B])),
        (PAIR, {"history": [["x", "y"]]}, Record("preference", [*OLD, U], [A], [B])),
        (PAIR, {"history": '[["x", "y"]]', "system": "s"},
         Record("preference", [S, *OLD, U], [A], [B])),
        (PAIR, {"history": OLD}, Record("preference", [*OLD, U], [A], [B])),
        (PAIR, {"input": "i"}, Record("preference", "q\ni", "a", "b")),
        (PAIR, {"input": "q"}, Record("preference", "q\nq", "a", "b")),
        (PAIR, {"context": "q"}, PAIR),
        (Record("sft", "q", completion="a"), {"system": "s"}, Record("sft", messages=[S, U, A])),
        (Record("sft", "q", completion="a"), {"thinking": "hm"},
         Record("sft", [U], completion=[{"thinking": "hm", **A}])),
        (Record("unpaired", "q", completion="a", label=True), {"history": [["x", "y"]]},
         Record("unpaired", [*OLD, U], completion=[A], label=True)),
        (Record("ranked", "q", answers=("a", "b")), {"system": "s"},
         Record("ranked", [S, U], answers=([A], [B]))),
        (Record("prompt", "q"), {"system": "s", "thinking": "hm"}, Record("prompt", [S, U])),
        (CHAT, {"system": "s", "history": [["x", "y"]]}, Record("sft", messages=[S, *OLD, U, A])),
        (Record("sft", messages=[S, U, A]), {"system": " s", "history": [["x", "y"]]},
         Record("sft", messages=[S, *OLD, U, A])),
        (Record("sft", messages=[U, B, U, A]), {"thinking": "hm"},
         Record("sft", messages=[U, B, U, {"thinking": "hm", **A}])),
        (CHAT, {"context": " q "}, CHAT),
        (CHAT, {"tools": "[]"}, CHAT),
        (CHAT, {"tools": []}, Record("sft", messages=[U, A], tools=[])),
        (CHAT, {"tools": '[{"name": "f"}]', "chat_template_kwargs": {"k": 1}},
         Record("sft", messages=[U, A], tools=[{"name": "f"}], template_kwargs={"k": 1})),
        (Record("text", text="t"), {"tools": []}, Record("text", text="t")),
    ],
)  # fmt: skip
def test_a_question_with_what_belongs_to_it(record: Record, data: Json, wanted: Record) -> None:
    assert with_context(record, data, tuple(data)) == wanted


MOVE = "move it into the text, or empty it"
KEEP = "keep one of them"


@pytest.mark.parametrize(
    ("record", "data", "refusal"),
    [
        (Record("text", text="t"), {"tools": [], "system": "s"},
         ("not_used", "'system' has no place in plain text", MOVE)),
        (CHAT, {"input": "i"}, ("not_used", "'input' has no place in a conversation", MOVE)),
        (PAIR, {"thinking": "hm"}, ("not_used", "'thinking' has no place in several answers",
                                     MOVE)),
        (Record("sft", messages=[U]), {"thinking": "hm"},
         ("not_used", "'thinking' has no place in a conversation that ends without an answer",
          MOVE)),
        (PAIR, {"system": "s", "system_prompt": "t"},
         ("two_systems", "'system' and 'system_prompt' differ", KEEP)),
        (Record("sft", messages=[S, U, A]), {"system": "t"},
         ("two_systems", "the system prompt of the column and that of the turns differ", KEEP)),
        (PAIR, {"history": 3}, ("wrong_type", "'history' is the number 3, wanted a list", "")),
        (PAIR, {"history": [["x", "y"], ["z"]]},
         ("wrong_type", "history[1] is a list of 1, wanted [question, answer]", "")),
        (PAIR, {"history": [["x", 1]]},
         ("wrong_type", "history[0] is a list of 2, wanted [question, answer]", "")),
        (PAIR, {"tools": [1]},
         ("wrong_type", "'tools' is a list of 1, wanted a list of tool schemas", "")),
        (PAIR, {"chat_template_kwargs": [1]},
         ("wrong_type", "'chat_template_kwargs' is a list of 1, wanted an object", "")),
        (PAIR, {"system": ["s"]}, ("wrong_type", "'system' is a list of 1, wanted text", "")),
    ],
)  # fmt: skip
def test_what_has_no_place_in_a_record(
    record: Record, data: Json, refusal: tuple[str, str, str]
) -> None:
    assert refused(with_context, record, data, tuple(data)) == refusal


def test_media_and_weights_are_refused() -> None:
    assert refused(refuse_media, {"q": "a", "image": "x.png"}) == (
        "not_text", "'image' holds the string 'x.png': only text is learned",
        "leave such rows out, or empty the column if the text makes sense without it",
    )  # fmt: skip
    refuse_media({"q": "a", "image": None, "images": []})
    assert refused(refuse_weights, {"q": 2, "weight": 1, "loss_mask": [0, 1]}) == (
        "not_used", "'loss_mask' is a list of 2: rows have no weights of their own",
        "delete the column, or give turns the weight 0 or 1, or sources theirs (path:0.3)",
    )  # fmt: skip
    refuse_weights({"weight": 1.0, "loss_scale": "0.5", "weights": None})


@pytest.mark.parametrize(
    ("data", "margin"),
    [
        ({}, None), ({"margin": None}, None), ({"margin": "0.5"}, 0.5),
        ({"margin": 2, "score_chosen": 9, "score_rejected": 1}, 2.0),
        ({"score_chosen": 9, "score_rejected": 1}, 8.0),
        ({"score_chosen": 9}, None), ({"score_chosen": 9, "score_rejected": None}, None),
        ({"chosen-rating": 1, "rejected-rating": "4"}, -3.0),
    ],
)  # fmt: skip
def test_the_margin_of_a_row(data: Json, margin: float | None) -> None:
    assert margin_of(data) == margin


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"), ("x" * 30, f"the string '{'x' * 20}'"), (True, "the boolean true"),
        ([1, 2], "a list of 2"), ({"a": 1}, "an object with 'a'"), (1.5, "the number 1.5"),
        (10**60, f"the number 1{'0' * 28}"), (b"\x89PNG", "a value of the type bytes"),
        (date(2025, 1, 2), "a value of the type date"),
    ],
)  # fmt: skip
def test_a_value_in_a_message(value: Any, said: str) -> None:
    assert shown(value) == said


def test_keys_in_a_message() -> None:
    assert listed({}) == "no keys"
    eight = ", ".join(f"'{i}'" for i in range(8))
    assert listed(dict.fromkeys(map(str, range(8)))) == eight
    assert listed(dict.fromkeys(map(str, range(9)))) == f"{eight} and 1 more"
    assert listed({"k" * 31: 1}) == f"'{'k' * 30}'"


@pytest.mark.parametrize(
    ("read", "value", "wanted"),
    [
        (text, "a", "a"), (text, 1, "the number 1, wanted text"),
        (number, "7.5", 7.5), (number, 3, 3.0), (number, True, "the boolean true, wanted a number"),
        (number, "x", "the string 'x', wanted a number"),
        (number, "nan", "the string 'nan', wanted a number"),
        (number, -float("inf"), "the number -inf, wanted a number"),
        (number, 10**400, f"the number 1{'0' * 28}, wanted a number"),
        (flag, " True", True), (flag, 0, False),
        (flag, "x", "the string 'x', wanted true or false"),
        (members, [1], [1]), (members, "x", "the string 'x', wanted a list"),
    ],
)  # fmt: skip
def test_a_field_of_a_row(read: Any, value: Any, wanted: Any) -> None:
    if isinstance(wanted, str) and wanted != value:
        assert refused(read, {"k": value}, "k") == ("wrong_type", f"'k' is {wanted}", "")
    else:
        assert read({"k": value}, "k") == wanted
    absent = refused(read, {"k": None}, "k"), refused(read, {"j": value}, "k")
    assert [code for code, _, _ in absent] == ["null", "missing"]
    assert absent[1][1] == "no 'k': the row has 'j'"


def test_json_in_a_cell_of_a_table() -> None:
    cells = {"": None, " ": None, "[1, null]": [1, None], "['a', True]": ["a", True], "{": "{"}
    assert {cell: json_value(cell) for cell in cells} == cells
    assert json_value(3) == 3
    empty = ("", " ", "[]", "{}", "null", None, [], {}, b"")
    assert [is_filled(value) for value in empty] == [False] * len(empty)
    assert all(is_filled(value) for value in ("a", 0, False, [None], {"a": None}, b"a"))
    both = {"tools": "", "chat_template_kwargs": '{"k": 1}'}
    assert with_template_inputs(CHAT, both) == Record("sft", messages=[U, A],
                                                      template_kwargs={"k": 1})  # fmt: skip


ROLES = {"human": "user", "gpt": "assistant"}


@pytest.mark.parametrize(
    ("columns", "row", "wanted"),
    [
        (Columns({"prompt": "q"}), {"q": "a", "n": 1}, {"prompt": "a", "n": 1}),
        (Columns({"prompt": "Q"}), {"q": "a"}, {"prompt": "a"}),
        (Columns({"prompt": "Q"}), {"Q": "b", "q": "a"}, {"prompt": "b", "q": "a"}),
        (Columns({"prompt": "q"}), {"q": "a", "prompt": "b"}, {"prompt": "a", "<prompt>": "b"}),
        (Columns({"prompt": "q", "input": "i"}, optional=frozenset({"input"})), {"q": "a"},
         {"prompt": "a"}),
        (Columns({"completion": "l.1.t"}), {"l": [{}, {"t": "b"}], "n": 1},
         {"completion": "b", "l": [{}, {"t": "b"}], "n": 1}),
        (Columns({"prompt": "history.0"}), {"history": ["a"]},
         {"prompt": "a", "<history>": ["a"]}),
        (Columns({"messages": "m"}, roles=ROLES),
         {"m": [{"from": "human", "value": "q"}, {"from": "x", "value": "r", "w": 1},
                {"value": "s"}, {"from": "gpt"}, "t"]},
         {"messages": [U, {"role": "x", "content": "r", "w": 1}, {"value": "s"}, {"from": "gpt"},
                       "t"]}),
        (Columns({"chosen": "c"}, roles=ROLES, turn_keys=("who", "what")),
         {"c": {"who": "gpt", "what": "a", "from": "z"}}, {"chosen": {**A, "from": "z"}}),
        (Columns({"messages": "m"}), {"m": [{"from": "human", "value": "q"}]},
         {"messages": [{"from": "human", "value": "q"}]}),
    ],
)  # fmt: skip
def test_a_row_with_its_parts_renamed(columns: Columns, row: Json, wanted: Json) -> None:
    assert columns.renamed(row) == wanted


@pytest.mark.parametrize("path", ["l.2", "l.x", "l.0.t", "m"])
def test_a_column_that_is_not_there(path: str) -> None:
    reason = f"no column {path!r} for 'prompt': the row has 'l'"
    assert refused(parse_columns({"prompt": path}).renamed, {"l": ["a", "b"]}) == (
        "missing", reason, "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ({"hf_hub_url": "a/b", "file_name": "x"}, "a/b"),
        ({"hf_hub_url": "a/b", "split": "test"}, "a/b:test"),
        ({"file_name": "x/y.json", "split": "test"}, "data/x/y.json"),
    ],
)
def test_where_the_rows_of_an_entry_are(entry: Json, place: str) -> None:
    assert _place(entry, "data/list.json@name") == place


LONG = "a text of thirty characters ok"


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"note": "x"}, ("note",)), ({"note": ""}, ()), ({"note": "null"}, ()), ({"note": 3}, ()),
        ({"note": "q"}, ()), ({"id": "q"}, ("id",)),
        ({"note": LONG}, ()), ({"note": LONG[:-1]}, ("note",)),
        ({"quality": 3}, ("quality",)), ({"liked": True}, ("liked",)), ({"count": 3}, ()),
        ({"quality": {"a": 1}}, ("quality",)), ({"list": [{"b": "x"}, {"b": "y"}]}, ("list",)),
        ({"list": [{"b": "q", "score": 1}]}, ("list[].score",)), ({"ids": [1, 2]}, ()),
        ({"a": {"b": {"c": "x"}}, "d": "y"}, ("a", "d")),
    ],
)  # fmt: skip
def test_columns_that_nothing_reads(row: Json, columns: tuple[str, ...]) -> None:
    assert len(LONG) == 30
    data = {"prompt": "q", "completion": f"So: {LONG}.", **row}
    record = Record("sft", "q", completion=data["completion"])
    assert unread(by_name("prompt-completion"), data, [record]) == columns


def test_a_row_that_is_more_than_one_answer() -> None:
    data = {"prompt": "q", "completion": "a", "bad": "b", "liked": True}
    record = Record("sft", "q", completion="a")
    why = more_than(record, ("bad", "liked"), data, "prompt-completion")
    assert why is not None
    assert (why.code, why.reason, why.remedy) == (
        "unknown_format", "more than one answer: 'bad', 'liked' would not be used; the row has "
        "'prompt', 'completion', 'bad', 'liked'",
        "name the parts, as in --columns prompt=prompt,chosen=completion,rejected=bad"
        " if the first answer is the better one",
    )  # fmt: skip
    about = {"prompt": "q", "completion": "a", "passage": "p"}
    why = more_than(record, ("passage",), about, "prompt-completion")
    assert why is not None
    assert (why.code, why.reason, why.remedy) == (
        "not_used", "'passage' seems to be a part of the question, and would not be used",
        "to add it to the question, --columns input=passage; to read the rows without it, "
        "--format prompt-completion",
    )  # fmt: skip
    assert more_than(record, ("note",), {**data, "note": "x"}, "prompt-completion") is None
    assert set(PARTS_BESIDE) == {"text", "sft", "unpaired"}


@pytest.mark.parametrize(
    ("row", "code", "reason", "remedy"),
    [
        ({"prompt": "q", "chosen": None}, "null", "of this row only the prompt can be read: "
         "'chosen' is null; the row has 'prompt', 'chosen'",
         "fix the row, name the parts, as in --columns prompt=prompt, or read prompts alone with "
         "--format prompt"),
        ({"prompt": "q", "chosen": "a"}, "missing", "of this row only the prompt can be read: "
         "'chosen' is the string 'a'; the row has 'prompt', 'chosen'",
         "fix the row, name the parts, as in --columns prompt=prompt,completion=chosen, or read "
         "prompts alone with --format prompt"),
        ({"prompt": "q", "note": "x", "id": "y", "quality": 1}, "unknown_format",
         "more than a prompt: 'note' would not be used; the row has 'prompt', 'note', 'id', "
         "'quality'", "name the parts, as in --columns prompt=prompt,completion=note"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_bare_prompt(row: Json, code: str, reason: str, remedy: str) -> None:
    why = passed_over(tuple(row)[1:], row)
    assert why is not None
    assert (why.code, why.reason, why.remedy) == (code, reason, remedy)
    assert passed_over(("id",), {"prompt": "q", "id": "y"}) is None


def test_rows_with_several_records_are_read_on_with_their_first(tmp_path: Path) -> None:
    asked = {"text": "q", "role": "prompter", "replies": []}
    answers = [{"text": one, "role": "assistant", "rank": rank, "replies": []}
               for rank, one in enumerate("ab")]  # fmt: skip
    again = {**asked, "text": "r", "replies": answers}
    first = {"text": "x", "role": "assistant", "rank": 0, "replies": [again]}
    other = {"text": "y", "role": "assistant", "rank": 1, "replies": []}
    rows = [{"message_tree_id": str(i), "prompt": {**asked, "replies": [first, other]}}
            for i in range(3)]  # fmt: skip
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    assert [one.row.number for one in examples(source)] == [1, 1, 2, 2, 3, 3]
    read = read_options()
    found = list(sound_rows([Located(source, None)], None, read))
    assert [row.number for row, _ in found] == [1, 2, 3]
    assert [record.prompt for _, record in found] == [[U]] * 3


@pytest.mark.parametrize(
    ("turns", "reason", "remedy"),
    [
        ([{"role": "alien", "content": "x"}], "messages[0] has the role 'alien'",
         "known: assistant, developer, system, tool, user"),
        ([U, {"role": None, "content": "x"}], "messages[1] has no role; the row has 'messages'",
         "name the parts, as in --columns prompt=messages"),
    ],
)  # fmt: skip
def test_a_turn_without_a_known_role(turns: list[Json], reason: str, remedy: str) -> None:
    (one,) = adapted([Row("f", 1, 1, {"messages": turns})])
    assert isinstance(one.record, Unusable)
    assert (one.record.code, one.record.reason, one.record.remedy) == ("role", reason, remedy)
