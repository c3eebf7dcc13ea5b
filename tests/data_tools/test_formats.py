"""One row of every format, what it becomes, and that it is told from all others."""

from typing import Any

import pytest
from support import REPOSITORY

from alignment.errors import ConfigError
from data_tools.formats import FORMATS, Record, Unusable, adapted, by_name, detect
from data_tools.reading import Row

U = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "good"}
B = {"role": "assistant", "content": "bad"}
S = {"role": "system", "content": "s"}
PAIR = ("q", "good", "bad")
TURNS = ([U], [A], [B])
SFT = [U, A]
RANKED = ("q", ("good", "bad"))

ROWS: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "huozi": [({"id": 1, "prompt": "q", "chosen": "good", "reject": "bad"}, PAIR)],
    "pair": [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, PAIR),
        ({"prompt": [U], "chosen": [A], "rejected": [B]}, TURNS),
        ({"query": "q", "selected": "good", "rejected": "bad"}, PAIR),
    ],
    "implicit": [
        ({"chosen": [U, A], "rejected": [U, B]}, TURNS),
        (
            {"chosen": "x[/INST]good", "rejected": "x[/INST]bad"},
            ("x[/INST]", "good", "bad"),
        ),
    ],
    "hh": [
        (
            {
                "chosen": "\n\nHuman: q\n\nAssistant: good",
                "rejected": "\n\nHuman: q\n\nAssistant: bad",
            },
            TURNS,
        )
    ],
    "hh-split": [
        (
            {"prompt": "\n\nHuman: q", "chosen": "Assistant: good", "rejected": "Assistant: bad"},
            TURNS,
        ),
        (
            {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " good", "rejected": " bad"},
            TURNS,
        ),
    ],
    "binarized": [
        (
            {
                "prompt": "q",
                "prompt_id": "1",
                "chosen": [U, A],
                "rejected": [U, B],
                "messages": [U, A],
                "score_chosen": 8.0,
                "score_rejected": 6.5,
            },
            (*TURNS, 1.5),
        ),
        (
            {
                "prompt": "q",
                "chosen": [U, A],
                "chosen-rating": 5.0,
                "rejected": [U, B],
                "rejected-rating": 4.0,
                "source": "x",
            },
            (*TURNS, 1.0),
        ),
        ({"prompt": "q", "chosen": [A], "rejected": [B]}, TURNS),
    ],
    "alpaca-ranking": [
        (
            {"instruction": "q", "input": "i", "chosen": "good", "rejected": "bad"},
            ("q\ni", "good", "bad"),
        ),
        (
            {
                "instruction": "q",
                "input": "",
                "chosen": "good",
                "rejected": "bad",
                "system": "s",
                "history": [["q1", "a1"]],
            },
            (
                [
                    S,
                    {"role": "user", "content": "q1"},
                    {"role": "assistant", "content": "a1"},
                    U,
                ],
                [A],
                [B],
            ),
        ),
    ],
    "sharegpt-ranking": [
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
            TURNS,
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "q"},
                ],
                "chosen": "good",
                "rejected": "bad",
            },
            ([S, U], [A], [B]),
        ),
    ],
    "llamafactory-v1": [
        (
            {
                side + "_messages": [
                    {"role": r, "content": [{"type": "text", "value": v}], "loss_weight": 1.0}
                    for r, v in (("user", "q"), ("assistant", answer))
                ]
                for side, answer in (("chosen", "good"), ("rejected", "bad"))
            },
            TURNS,
        )
    ],
    "messages-ranking": [
        ({"messages": [S, U], "chosen": "good", "rejected": "bad"}, ([S, U], [A], [B])),
        ({"messages": [U], "chosen": A, "rejected": B}, TURNS),
        ({"messages": [U, A], "chosen": [A], "rejected": [B], "margin": 2}, (*TURNS, 2.0)),
        ({"messages": [U, A], "chosen": [U, A], "rejected": [U, B]}, TURNS),
    ],
    "ms-swift": [({"messages": [U, A], "rejected_response": "bad"}, TURNS)],
    "ms-swift-query": [({"query": "q", "response": "good", "rejected_response": "bad"}, PAIR)],
    "ms-swift-messages": [
        ({"messages": [U, A], "rejected_messages": [U, B]}, TURNS),
        ({"messages": [U, A], "rejected_messages": [B]}, TURNS),
        ({"messages": [U, A], "rejected_messages": "bad"}, TURNS),
    ],
    "hh-rlhf-cn": [
        (
            {
                "context": [{"role": "human", "text": "q"}],
                "chosen": {"role": "assistant", "text": "good"},
                "rejected": {"role": "assistant", "text": "bad"},
            },
            TURNS,
        )
    ],
    "openai": [
        (
            {
                "input": {"messages": [U], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [A],
                "non_preferred_output": [B],
            },
            TURNS,
        )
    ],
    "nemo-template": [
        (
            {
                "prompt": "<extra_id_0>System\n\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n",
                "chosen_response": "good\n<extra_id_1>",
                "rejected_response": "bad\n<extra_id_1>",
            },
            TURNS,
        )
    ],
    "nemo": [({"prompt": "q", "chosen_response": "good", "rejected_response": "bad"}, PAIR)],
    "medicalgpt": [
        ({"question": "q", "response_chosen": "good", "response_rejected": "bad"}, PAIR)
    ],
    "orca": [
        ({"system": "s", "question": "q", "chosen": "good", "rejected": "bad"}, ([S, U], [A], [B])),
        ({"system": "", "question": "q", "chosen": "good", "rejected": "bad"}, PAIR),
    ],
    "cvalues": [({"prompt": "q", "pos_resp": "good", "neg_resp": "bad"}, PAIR)],
    "stack-exchange": [({"question": "q", "response_j": "good", "response_k": "bad"}, PAIR)],
    "pku-saferlhf": [
        (
            {
                "prompt": "q",
                "response_0": "bad",
                "response_1": "good",
                "is_response_0_safe": True,
                "better_response_id": 1,
                "safer_response_id": 0,
            },
            PAIR,
        )
    ],
    "shp": [
        (
            {
                "history": "q",
                "human_ref_A": "bad",
                "human_ref_B": "good",
                "labels": 0,
                "score_A": 3,
                "score_B": 9,
                "score_ratio": 3.0,
            },
            (*PAIR, 6.0),
        )
    ],
    "helpsteer2-preference": [
        (
            {"prompt": "q", "response_1": "good", "response_2": "bad", "preference_strength": -2},
            (*PAIR, 2.0),
        )
    ],
    "helpsteer3": [
        (
            {"context": [U], "response1": "bad", "response2": "good", "overall_preference": 3},
            (*TURNS, 3.0),
        )
    ],
    "alpaca-eval": [
        (
            {"instruction": "q", "output_1": "bad", "output_2": "good", "preference": 2},
            (*PAIR, 0.5),
        ),
        (
            {"instruction": "q", "output_1": "good", "output_2": "bad", "preference": 1.25},
            (*PAIR, 0.25),
        ),
        (
            {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 0},
            ("q", "a", "b", 0.0),
        ),
    ],
    "paddlenlp": [
        ({"src": ["q"], "tgt": [], "response": ["bad", "good"], "sort": [0, 1]}, PAIR),
        (
            {"src": ["q0", "q"], "tgt": ["a0"], "response": ["good", "bad"], "sort": [1, 0]},
            (
                [
                    {"role": "user", "content": "q0"},
                    {"role": "assistant", "content": "a0"},
                    U,
                ],
                [A],
                [B],
            ),
        ),
    ],
    "alpaca-ranked": [({"instruction": "q", "input": "", "output": ["good", "bad"]}, RANKED)],
    "ultrafeedback": [
        (
            {
                "instruction": "q",
                "models": ["m"],
                "completions": [
                    {
                        "response": answer,
                        "annotations": {
                            name: {"Rating": rating}
                            for name, rating in zip(
                                ("instruction_following", "honesty", "truthfulness", "helpfulness"),
                                ratings,
                                strict=True,
                            )
                        },
                    }
                    for answer, ratings in (("bad", "1234"), ("good", ("5", "N/A", "4", "3")))
                ],
            },
            ("q", ("bad", "good"), (2.5, 4.0)),
        )
    ],
    "webgpt": [
        (
            {
                "question": {"dataset": "eli5", "full_text": "q"},
                "answer_0": "good",
                "answer_1": "bad",
                "score_0": 1.0,
                "score_1": -1.0,
            },
            (*RANKED, (1.0, -1.0)),
        )
    ],
    "text-score": [
        (
            {
                "text": ["\n\nHuman: q\n\nAssistant: good", "\n\nHuman: q\n\nAssistant: bad"],
                "score": [2.0, 1],
            },
            ("\n\nHuman: q\n\nAssistant:", ("good", "bad"), (2.0, 1.0)),
        )
    ],
    "gpt4llm": [
        (
            {
                "user_input": "Below is an instruction that describes a task.\n\n"
                "### Instruction:\nq\n\n### Input:\ni\n\n### Response:",
                "responses_and_scores": [
                    {"response": "good", "source": "gpt4", "score": "9.0"},
                    {"response": "bad", "source": "davinci", "score": "7"},
                ],
            },
            ("q\ni", ("good", "bad"), (9.0, 7.0)),
        )
    ],
    "scored": [
        ({"prompt": "q", "responses": ["good", "bad"], "scores": [2, 1]}, (*RANKED, (2.0, 1.0)))
    ],
    "nemo-rl": [
        (
            {
                "context": [U],
                "completions": [{"rank": 1, "completion": [B]}, {"rank": 0, "completion": [A]}],
            },
            ([U], ([B], [A]), (-1.0, 0.0)),
        )
    ],
    "ranked": [({"prompt": "q", "responses": ["good", "bad"]}, RANKED)],
    "alpaca": [
        ({"instruction": "q", "input": "i", "output": "good"}, ("q\ni", "good")),
        ({"instruction": "q", "output": "good"}, ("q", "good")),
        ({"instruction": "q", "input": "  ", "output": "good", "history": ""}, ("q", "good")),
        ({"instruction": "q", "input": "", "output": "good", "text": "whole"}, ("q", "good")),
        ({"instruction": "q", "input": None, "output": "good", "system": "s"}, [S, U, A]),
    ],
    "belle": [
        (
            {
                "instruction": "Human:q0\nAssistant:a0\nHuman:q\nAssistant:\n",
                "input": "",
                "output": "good",
            },
            [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"}, U, A],
        )
    ],
    "sharegpt": [
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]},
            SFT,
        )
    ],
    "messages": [
        ({"messages": [U, A]}, SFT),
        ({"prompt": "q", "prompt_id": "", "messages": [U, A]}, SFT),
    ],
    "prompt-completion": [
        ({"prompt": "q", "completion": "good"}, ("q", "good")),
        ({"question": "q", "answer": "good"}, ("q", "good")),
    ],
    "lima": [({"conversations": ["q", "good"]}, SFT)],
    "kto-sharegpt": [
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "good"},
                ],
                "kto_tag": "True",
            },
            ([U], [A], True),
        )
    ],
    "kto-messages": [({"messages": [U, A], "label": False}, ([U], [A], False))],
    "kto-alpaca": [
        ({"instruction": "q", "input": "", "output": "good", "kto_tag": True}, ("q", "good", True))
    ],
    "unpaired": [({"prompt": "q", "completion": "good", "label": True}, ("q", "good", True))],
    "mt-bench": [({"question_id": 1, "category": "x", "turns": ["q", "more"]}, "q")],
    "prompt": [({"prompt": "q"}, "q")],
    "text": [({"text": "t"}, "t")],
}
TREE = {
    "message_tree_id": "t",
    "tree_state": "ready",
    "prompt": {
        "message_id": "t",
        "text": "q",
        "role": "prompter",
        "replies": [
            {"text": "bad", "role": "assistant", "rank": 1, "replies": []},
            {"text": "gone", "role": "assistant", "rank": 2, "deleted": True, "replies": []},
            {
                "text": "good",
                "role": "assistant",
                "rank": 0,
                "replies": [
                    {
                        "text": "q2",
                        "role": "prompter",
                        "replies": [
                            {"text": "x", "role": "assistant", "rank": None, "replies": []},
                            {"text": "y", "role": "assistant", "rank": None, "replies": []},
                        ],
                    }
                ],
            },
        ],
    },
}
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
