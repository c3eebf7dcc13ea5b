"""Conversations of several turns, ties and refusals of the formats, as exact records and words."""

from dataclasses import replace
from typing import Any

import pytest

from data_tools.formats import Pairing, Record, Unusable, adapted, by_name, pairs_of
from data_tools.formats.pairing import is_paired
from data_tools.reading import Row

S = {"role": "system", "content": "s"}
U0 = {"role": "user", "content": "q0"}
A0 = {"role": "assistant", "content": "a0"}
U = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "good"}
B = {"role": "assistant", "content": "bad"}
#: A conversation of two rounds: a rule that looks at the first turn for the last one is seen.
ASKED = [U0, A0, U]
TALK = [*ASKED, A]
HH = "\n\nHuman: q0\n\nAssistant: a0\n\nHuman: q"


def read(name: str, row: dict[str, Any]) -> list[Record | Unusable]:
    return [one.record for one in adapted([Row("in.jsonl", 1, 1, row)], forced=by_name(name))]


def pku(name: str, better: Any = 1, safer: Any = 1) -> tuple[str, dict[str, Any]]:
    ids = {"better_response_id": better, "safer_response_id": safer}
    return name, {"prompt": "q", "response_0": "bad", "response_1": "good", **ids}


def pair(prompt: Any, *sides: Any, margin: float | None = None) -> Record:
    chosen, rejected = sides or ([A], [B])
    return Record("preference", prompt, chosen=chosen, rejected=rejected, margin=margin)


def strength(value: Any) -> tuple[str, dict[str, Any]]:
    row = {"prompt": "q", "response_1": "good", "response_2": "bad", "preference_strength": value}
    return "helpsteer2-preference", row


def preference(value: Any) -> tuple[str, dict[str, Any]]:
    row = {"instruction": "q", "output_1": "good", "output_2": "bad", "preference": value}
    return "alpaca-eval", row


def sources(name: str, **columns: Any) -> tuple[str, dict[str, Any]]:
    return name, columns


FORWARD, BACKWARD = ("q", "good", "bad"), ("q", "bad", "good")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (
            sources("hh", chosen=f"{HH}\n\nAssistant: good", rejected=f"{HH}\n\nAssistant: bad"),
            pair(ASKED),
        ),
        (
            sources("hh-split", prompt=HH, chosen="Assistant: good", rejected="Assistant: bad"),
            pair(ASKED),
        ),
        (
            sources(
                "hh-split",
                prompt=HH,
                chosen="\n\nAssistant: good\n\n",
                rejected="\n\nAssistant:bad",
            ),
            pair(ASKED, [{**A, "content": "good\n\n"}], [B]),
        ),
        (
            sources("hh-split", prompt=f"{HH}\n\nAssistant:", chosen=" good", rejected="bad"),
            pair(ASKED),
        ),
        # with the marker in the prompt, an answer may begin with it
        (
            sources(
                "hh-split", prompt=f"{HH}\n\nAssistant:", chosen="Assistant: x", rejected="bad"
            ),
            pair(ASKED, [{**A, "content": "Assistant: x"}], [B]),
        ),
        (
            sources("alpaca-ranking", instruction="q", chosen="good", rejected="bad", margin=2),
            pair(*FORWARD, margin=2.0),
        ),
        (sources("ms-swift", messages=TALK, rejected_response="bad"), pair(ASKED)),
        (sources("ms-swift-messages", messages=TALK, rejected_messages=[B]), pair(ASKED)),
        (sources("ms-swift-messages", messages=TALK, rejected_messages=[*ASKED, B]), pair(ASKED)),
        (
            sources(
                "nemo-template",
                prompt="<extra_id_0>\n<extra_id_1>User\nq\n",
                chosen_response="good",
                rejected_response="bad",
            ),
            pair([U]),
        ),
        (pku("pku-saferlhf-both"), pair(*FORWARD)),
        (pku("pku-saferlhf-both", 0, 0), pair(*BACKWARD)),
        (strength(-1), pair(*FORWARD, margin=1.0)),
        (strength(0), pair(*BACKWARD, margin=0.0)),
        (strength(0.5), pair(*BACKWARD, margin=0.5)),
        (strength(1), pair(*BACKWARD, margin=1.0)),
        (preference(1), pair(*FORWARD, margin=0.5)),
        (preference(1.5), pair(*BACKWARD, margin=0.0)),
        (preference(2), pair(*BACKWARD, margin=0.5)),
        (
            sources("kto-messages", messages=TALK, label=True),
            Record("unpaired", ASKED, completion=[A], label=True),
        ),
        (sources("lima", conversations=["q0", "a0", "q", "good"]), Record("sft", messages=TALK)),
        (
            sources("implicit", chosen="[/INST]good", rejected="[/INST]bad", margin=3),
            pair("[/INST]", "good", "bad", margin=3.0),
        ),
        (
            sources("webgpt", question="q", answer_0="good", answer_1="bad", score_0=1, score_1=0),
            Record("ranked", "q", answers=("good", "bad"), scores=(1.0, 0.0)),
        ),
        (
            sources(
                "webgpt",
                question='{"full_text": "q"}',
                answer_0="good",
                answer_1="bad",
                score_0="1",
                score_1="0",
            ),
            Record("ranked", "q", answers=("good", "bad"), scores=(1.0, 0.0)),
        ),
        (
            sources(
                "text-score",
                text=[f"{HH}\n\nAssistant: good", f"{HH}\n\nAssistant:bad"],
                score=[1, 0],
            ),
            Record("ranked", f"{HH}\n\nAssistant:", answers=("good", "bad"), scores=(1.0, 0.0)),
        ),
        (
            sources(
                "gpt4llm",
                user_input="q",
                responses_and_scores=[
                    {"response": "good", "score": 2},
                    {"response": "bad", "score": 1},
                ],
            ),
            Record("ranked", "q", answers=("good", "bad"), scores=(2.0, 1.0)),
        ),
        (
            sources(
                "gpt4llm",
                user_input="Below is an instruction.\n### Instruction:\nq\n### Response:",
                responses_and_scores=[
                    {"response": "good", "score": 2},
                    {"response": "bad", "score": 1},
                ],
            ),
            Record("ranked", "q", answers=("good", "bad"), scores=(2.0, 1.0)),
        ),
        (
            sources(
                "messages",
                messages=[
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "0"}],
                    },
                    A0,
                ],
            ),
            Record("sft", messages=[U0, A0]),
        ),
    ],
)
def test_a_row_becomes_exactly_this_record(
    source: tuple[str, dict[str, Any]], wanted: Record
) -> None:
    assert read(*source) == [wanted]


@pytest.mark.parametrize(
    ("source", "code", "reason"),
    [
        (
            sources("hh", chosen=HH, rejected=HH),
            "no_answer",
            "the last turn is not the assistant's",
        ),
        (
            sources("hh", chosen=f"{HH}\n\nAssistant: good", rejected=HH.replace("q0", "q1")),
            "prompt_mismatch",
            "chosen and rejected differ before the last turn",
        ),
        (
            sources("hh", chosen=f"{HH}\n\nAssistant: good", rejected=f"{HH}\n\nHuman: q"),
            "no_answer",
            "the last turn is not the assistant's",
        ),
        (
            sources("hh", chosen=f"{HH}\n\nHuman: q", rejected=f"{HH}\n\nAssistant: bad"),
            "no_answer",
            "the last turn is not the assistant's",
        ),
        *(
            (
                sources("hh", chosen=text, rejected=text),
                "no_markers",
                r"the text does not begin with '\n\nHuman:'",
            )
            for text in ("q", f"q{HH}")
        ),
        *(
            (
                sources("ms-swift", messages=turns, rejected_response="bad"),
                "no_answer",
                "the last turn is not the assistant's",
            )
            for turns in (ASKED, [A])
        ),
        *(
            (
                sources("nemo-template", prompt=prompt, chosen_response="a", rejected_response="b"),
                "no_markers",
                "'prompt' is not NeMo's <extra_id_…> template",
            )
            for prompt in ("x<extra_id_1>", "x\n<extra_id_1>User\nq\n", "<extra_id_1>")
        ),
        (
            pku("pku-saferlhf-both", 1, 0),
            "labels_disagree",
            "the better answer is not the safer one",
        ),
        (
            pku("pku-saferlhf", 2),
            "wrong_type",
            "'better_response_id' is 2, wanted 0 or 1",
        ),
        *(
            (preference(value), "wrong_type", f"'preference' is {value:g}, wanted 0 or 1 to 2")
            for value in (0.5, 2.5, 3, -1)
        ),
        *(
            (
                sources("paddlenlp", src=src, tgt=tgt, response=response, sort=sort),
                "wrong_type",
                "wanted one more 'src' than 'tgt', two answers, 'sort' 0 and 1",
            )
            for src, tgt, response, sort in (
                (["q"], ["a"], ["x", "y"], [0, 1]),
                (["q"], [], ["x"], [0, 1]),
                (["q"], [], ["x", "y", "z"], [0, 1]),
                (["q"], [], ["x", "y"], [1, 1]),
                (["q"], [], ["x", "y"], [1, 2]),
            )
        ),
        *(
            (
                sources("kto-messages", messages=turns, label=True),
                "no_answer",
                "the last turn is not the assistant's: nothing to judge",
            )
            for turns in (ASKED, [A])
        ),
        *(
            (
                sources("lima", conversations=said),
                "no_answer",
                "'conversations' holds no answer: nothing to learn",
            )
            for said in (["q"], ["q", 3])
        ),
        *(
            (
                sources("mt-bench", question_id=1, turns=turns),
                "wrong_type",
                "'turns' holds no text",
            )
            for turns in ([], [3])
        ),
        (
            sources("belle", instruction="Human: q", output="x"),
            "no_markers",
            "'instruction' is not 'Human:… Assistant:'",
        ),
        *(
            (sources("text-score", text=text, score=score), "wrong_type", reason)
            for text, score, reason in (
                (["x"], [1, 2], "1 texts and 2 scores"),
                ([3, "x"], [1, 2], "2 texts and 2 scores"),
            )
        ),
        (
            sources("text-score", text=["x", "y"], score=[1, 2]),
            "no_markers",
            "no marker of an answer in 'text'",
        ),
        (
            sources("text-score", text=[], score=[]),
            "no_markers",
            "no marker of an answer in 'text'",
        ),
        (
            sources("text-score", text=["[/INST]x", "y[/INST]z"], score=[1, 2]),
            "prompt_mismatch",
            "the texts do not share one prompt",
        ),
        (
            sources(
                "openai", input={"messages": [U]}, preferred_output=[U], non_preferred_output=[B]
            ),
            "not_one_answer",
            "each side must be one message of the assistant",
        ),
        (
            sources("implicit", chosen="x", rejected="y"),
            "no_prompt",
            "no 'prompt', and no marker of an answer in the texts",
        ),
        (
            sources("implicit", chosen="a[/INST]x", rejected="b[/INST]y"),
            "prompt_mismatch",
            "chosen and rejected do not share the prompt",
        ),
        (
            sources("hh-rlhf-cn", context=[], chosen=A, rejected=B),
            "empty",
            "'context' is an empty list",
        ),
    ],
)
def test_a_refusal_names_its_reason(
    source: tuple[str, dict[str, Any]], code: str, reason: str
) -> None:
    (found,) = read(*source)
    assert isinstance(found, Unusable), found
    assert (found.code, found.reason) == (code, reason)


#: The place that an empty text or list is reported with, of each format that reads one by hand.
PLACES = [
    (sources("ms-swift", messages=[], rejected_response="x"), "'messages'"),
    (sources("ms-swift", messages=[U, A], rejected_response=3), "'rejected_response'"),
    (sources("ms-swift-messages", messages=[U, A], rejected_messages=3), "'rejected_messages'"),
    (sources("ms-swift-messages", messages=[], rejected_messages="x"), "'messages'"),
    (sources("llamafactory-v1", chosen_messages=[], rejected_messages=[]), "'chosen_messages'"),
    (sources("openai", input={"messages": []}, preferred_output=[A], non_preferred_output=[B]),
     "'input.messages'"),
    (sources("openai", input={"messages": [U]}, preferred_output=[], non_preferred_output=[B]),
     "'preferred_output'"),
    (sources("helpsteer3", context=[], response1="a", response2="b", overall_preference=1),
     "'context'"),
    (sources("paddlenlp", src=[3], tgt=[], response=["x", "y"], sort=[0, 1]), "'src'"),
    (sources("paddlenlp", src=[3, "q"], tgt=["a"], response=["x", "y"], sort=[0, 1]), "src[0]"),
    (sources("paddlenlp", src=["q"], tgt=[], response=[3, "y"], sort=[0, 1]), "'response'"),
    (sources("paddlenlp", src=["q"], tgt=[], response=["x", 3], sort=[0, 1]), "'response'"),
    (sources("alpaca-ranked", instruction="q", output=["x", 3]), "'output'"),
    (sources("ranked", prompt="q", responses=["x", 3]), "'responses'"),
    (sources("ranked", prompt=3, responses=["x", "y"]), "'prompt'"),
    (sources("nemo-rl", context=[], completions=[{"rank": 0, "completion": [A]}] * 2),
     "'context'"),
    (sources("nemo-rl", context=[U], completions=[{"rank": 0, "completion": 3}] * 2),
     "'completion'"),
    (sources("nemo-rl", context=[U], completions=[3, 3]), "'completions[0]'"),
    (sources("ultrafeedback", instruction="q", completions=[3]), "'completions[0]'"),
    (sources("ultrafeedback", instruction="q", completions=[{"annotations": 3}]),
     "'completions[0].annotations'"),
    (sources("gpt4llm", user_input="q", responses_and_scores=[3]), "'responses_and_scores[0]'"),
    (sources("kto-messages", messages=[], label=True), "'messages'"),
    (sources("oasst-tree", message_tree_id="t", prompt=3), "'prompt'"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "place"), PLACES, ids=[str(n) for n in range(len(PLACES))])
def test_a_value_of_a_wrong_kind_is_named_by_its_place(
    source: tuple[str, dict[str, Any]], place: str
) -> None:
    (found,) = read(*source)
    assert isinstance(found, Unusable)
    assert place in found.reason


def test_an_answer_without_annotations_is_unrated() -> None:
    rated = {"response": "good", "annotations": {"honesty": {"Rating": "4"}}}
    row = {"instruction": "q", "completions": [{"response": "x"}, rated, rated]}
    ranked, passed = read("ultrafeedback", row)
    assert isinstance(ranked, Record)
    assert ranked.scores == (4.0, 4.0)
    assert isinstance(passed, Unusable)
    assert (passed.code, passed.reason) == ("unrated", "completions[0] has no rating")


def test_openai_tools_are_kept() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    row = {"input": {"messages": [U], "tools": tools}, "preferred_output": [A],
           "non_preferred_output": [B]}  # fmt: skip
    (found,) = read("openai", row)
    assert isinstance(found, Record)
    assert found.tools == tools


def test_deleted_and_rejected_messages_are_in_no_ranking() -> None:
    def reply(text: str, rank: int, **more: Any) -> dict[str, Any]:
        return {"text": text, "role": "assistant", "rank": rank, **more}

    replies = [
        reply("c", 2),
        reply("gone", 1, deleted=True),
        reply("spam", 1, review_result=False),
        reply("a", 0, review_result=True),
        reply("b", 1, review_result=None),
    ]
    row = {"message_tree_id": "t", "prompt": {"text": "q", "role": "prompter", "replies": replies}}
    (found,) = read("oasst-tree", row)
    assert isinstance(found, Record)
    assert found.answers == tuple([{"role": "assistant", "content": text}] for text in "abc")


@pytest.mark.parametrize("replies", [None, [], [{"text": "a", "role": "assistant", "rank": 0}]])
def test_a_tree_of_single_answers_has_nothing_to_rank(replies: Any) -> None:
    row = {"message_tree_id": "t", "prompt": {"text": "q", "role": "prompter", "replies": replies}}
    (found,) = read("oasst-tree", row)
    assert isinstance(found, Unusable)
    assert found.code == "one_answer"
    assert found.reason == "no message of this tree has two answers"


# Pairing

RANKED = Record("ranked", "q", answers=("a", "b", "c", "d"), scores=(2.0, 4.0, 4.0, 1.0))


def drawn(record: Record, seeds: int = 60) -> set[tuple[Any, Any]]:
    found = set()
    for seed in range(seeds):
        kept, dropped = pairs_of(record, Pairing("best-vs-random", seed=seed))
        found |= {(one.chosen, one.rejected) for one in kept}
        found |= {(None, one.code) for one in dropped}
    return found


def test_the_random_policy_draws_every_lower_answer_and_never_the_best_itself() -> None:
    assert drawn(RANKED) == {("b", "a"), ("b", "d")}
    ordered = Record("ranked", "q", answers=("a", "b", "c"))
    assert drawn(ordered) == {("a", "b"), ("a", "c")}
    two = Record("ranked", "q", answers=("a", "b"), scores=(1.0, 2.0))
    assert drawn(two, 3) == {("b", "a")}
    first = Record("ranked", "q", answers=("a", "b", "c"), scores=(3.0, 2.0, 1.0))
    assert drawn(first) == {("a", "b"), ("a", "c")}
    equal = Record("ranked", "q", answers=("a", "b"), scores=(1.0, 1.0))
    assert drawn(equal, 3) == {(None, "tie")}


def test_the_draw_depends_on_seed_and_prompt() -> None:
    prompts = [Record("ranked", f"q{n}", answers=("a", "b", "c")) for n in range(30)]

    def draw(seed: int) -> list[Any]:
        policy = Pairing("best-vs-random", seed=seed)
        return [pairs_of(one, policy)[0][0].rejected for one in prompts]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert {*draw(1)} == {"b", "c"}


@pytest.mark.parametrize(
    ("margin", "least", "dropped"),
    [
        (None, 0.0, None),
        (None, 0.5, ("no_margin", "the source has no scores to compare with --min-margin")),
        (0.0, 0.0, ("tie", "both answers have the same score")),
        (-0.5, 0.0, ("negative_margin", "rejected is scored higher than chosen, by 0.5")),
        (0.25, 0.5, ("min_margin", "margin 0.25 is under 0.5")),
        (0.5, 0.5, None),
        (0.25, 0.0, None),
    ],
)
def test_a_pair_that_teaches_nothing_is_dropped_with_its_reason(
    margin: float | None, least: float, dropped: tuple[str, str] | None
) -> None:
    record = pair("q", "a", "b", margin=margin)
    expected = ([], [dropped]) if dropped else ([record], [])
    assert pairs_of(record, Pairing(min_margin=least)) == expected


def test_the_cap_keeps_the_pairs_furthest_apart_in_rank() -> None:
    kept, dropped = pairs_of(RANKED, Pairing("all-pairs", max_pairs=3))
    # best first: b c a d; furthest are b-d, then b-a and c-d
    assert [(one.chosen, one.rejected, one.margin) for one in kept] == [
        ("b", "a", 2.0),
        ("b", "d", 3.0),
        ("c", "d", 3.0),
    ]
    assert dropped == [("over_cap", "more than 3 pairs per prompt")] * 3
    whole = pairs_of(RANKED, Pairing("all-pairs", max_pairs=6))
    assert [one.code for one in whole[1]] == ["tie"]
    assert len(whole[0]) == 5


@pytest.mark.parametrize(
    ("kind", "least", "changes"),
    [
        ("ranked", 0.0, True),
        ("ranked", 0.5, True),
        ("preference", 0.0, False),
        ("preference", 0.5, True),
        ("sft", 0.5, False),
        ("unpaired", 0.5, False),
    ],
)
def test_which_records_pairing_changes(kind: Any, least: float, changes: bool) -> None:
    assert is_paired(Record(kind, "q"), Pairing(min_margin=least)) is changes


def test_the_cap_holds_for_all_pairs_alone_and_from_one_pair_more_on() -> None:
    kept, dropped = pairs_of(RANKED, Pairing("best-vs-rest", max_pairs=1))
    assert [(one.chosen, one.rejected) for one in kept] == [("b", "a"), ("b", "d")]
    assert [one.code for one in dropped] == ["tie"]


def test_pairs_keep_the_tools_of_their_ranking() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    for more in ({"tools": tools}, {"template_kwargs": {"enable_thinking": False}}):
        record = replace(RANKED, **more)
        (kept,), _ = pairs_of(record, Pairing())
        assert (kept.tools, kept.template_kwargs) == (record.tools, record.template_kwargs)
