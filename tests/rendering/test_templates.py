"""The text and the loss mask of a conversation under the templates that models ship."""

from functools import cache
from typing import Any

import pytest
from chat_cases import CASES, TRL_TEMPLATES, Turn, conversations, make_case_tokenizer, tag
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.formats import Record, Unusable
from data_tools.rendering.render import Renderer
from data_tools.rendering.tokenizer import from_transformers


@cache
def both(name: str) -> tuple[Any, Renderer]:
    """The tokenizer of transformers for a case, and our renderer with it."""
    tokenizer = make_case_tokenizer(CASES[name])
    return tokenizer, Renderer(from_transformers(tokenizer))


def is_learned(turn: Turn) -> bool:
    return turn["role"] == "assistant" and all(
        turn.get(key, True) for key in ("weight", "loss", "train")
    )


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(draw=st.data())
def test_text_is_that_of_transformers_and_loss_is_on_answers_alone(
    name: str, draw: st.DataObject
) -> None:
    case, (theirs, renderer) = CASES[name], both(name)
    turns = draw.draw(conversations(case))
    spoken = renderer.sequences(Record(kind="sft", messages=turns))["messages"]
    assert spoken.text == theirs.apply_chat_template(turns, tokenize=False)
    learned = [i for i, turn in enumerate(turns) if is_learned(turn)]
    assert len(spoken.loss) == len(learned)
    for i, (start, end) in zip(learned, spoken.loss, strict=True):
        is_last = i == len(turns) - 1
        written = case.answer(turns[i], is_last) + (case.after if is_last else "")
        assert spoken.text[start:end] == written
        before, after = spoken.text[:start], spoken.text[end:]
        assert tag(i - 1) in before
        assert is_last or tag(i + 1) in after


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10, deadline=None)
@given(draw=st.data())
def test_an_answer_to_a_prompt_is_all_that_follows_it(name: str, draw: st.DataObject) -> None:
    case, (theirs, renderer) = CASES[name], both(name)
    turns = draw.draw(conversations(case, weights=False))
    record = Record(kind="sft", prompt=turns[:-1], completion=turns[-1:])
    spoken = renderer.sequences(record)["completion"]
    ((start, end),) = spoken.loss
    assert spoken.text == theirs.apply_chat_template(turns, tokenize=False)
    assert (spoken.answer, len(spoken.text)) == (start, end)
    written = case.answer(turns[-1], True) + case.after
    assert spoken.text[start:].startswith(written)
    assert spoken.text[start + len(written) :].strip() == ""
    asked = theirs.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    assert renderer.prompt(turns[:-1]).text == asked
    if spoken.text.startswith(asked):
        assert spoken.text[:start] == asked


@pytest.mark.parametrize("name", CASES)
def test_the_token_that_ends_a_turn_is_known(name: str) -> None:
    template = both(name)[1].template
    assert template is not None
    assert template.end_of_turn == CASES[name].end


TRL_NAMES = sorted(path.stem for path in TRL_TEMPLATES.glob("*.jinja"))
#: Their templates read content as a list of parts and show no text.
VISION = ("idefics3", "llava_next", "smolvlm")
CHAT: list[Turn] = [
    {"role": "user", "content": "First question?"},
    {"role": "assistant", "content": "First answer."},
    {"role": "user", "content": "Second question?"},
    {"role": "assistant", "content": "Second answer."},
]


@pytest.mark.parametrize("name", TRL_NAMES)
def test_a_template_that_trl_knows_is_masked_or_refused(name: str) -> None:
    theirs = make_case_tokenizer(CASES["chatml"])
    theirs.chat_template = (TRL_TEMPLATES / f"{name}.jinja").read_text("utf-8")
    renderer = Renderer(from_transformers(theirs))
    record = Record(kind="sft", messages=CHAT)
    if name.removesuffix("_training") in VISION:
        with pytest.raises(Unusable, match=r"the chat template (drops|refuses)"):
            renderer.sequences(record)
        return
    spoken = renderer.sequences(record)["messages"]
    assert spoken.text == theirs.apply_chat_template(CHAT, tokenize=False)
    assert len(spoken.loss) == 2
    for (start, end), turn in zip(spoken.loss, CHAT[1::2], strict=True):
        assert turn["content"] in spoken.text[start:end]
        assert "question" not in spoken.text[start:end]
