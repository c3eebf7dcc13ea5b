"""A record as text, tokens and loss mask: against transformers, with and without a template."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_cases import CASES, make_case_tokenizer
from support import make_tokenizer
from transformers import AutoTokenizer

from alignment.errors import ConfigError
from data_tools.formats import Record, Unusable
from data_tools.rendering import Renderer, Spoken, from_transformers, read_tokenizer
from data_tools.rendering.render import Part, count_roles

TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "你是助手。"},
    {"role": "user", "content": "二加二等于几？"},
    {"role": "assistant", "content": "四。"},
    {"role": "user", "content": "Say hello."},
    {"role": "assistant", "content": "Hello!"},
]
PLAIN_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def renderer(template: str | None = "", **options: Any) -> Renderer:
    """A renderer with the template of the tiny tokenizer, another one, or none."""
    tokenizer = make_tokenizer()
    if template != "":
        tokenizer.chat_template = template
    return Renderer(from_transformers(tokenizer), **options)


def answered(model: Renderer, prompt: Any, completion: Any) -> Spoken:
    record = Record(kind="sft", prompt=prompt, completion=completion)
    return model.sequences(record)["completion"]


def learned(spoken: Spoken) -> list[str]:
    return [spoken.text[start:end] for start, end in spoken.loss]


def test_text_and_ids_are_those_of_transformers() -> None:
    theirs, ours = make_tokenizer(), renderer()
    spoken = ours.sequences(Record(kind="sft", messages=TURNS))["messages"]
    assert spoken.text == theirs.apply_chat_template(TURNS, tokenize=False)
    assert ours.prompt(TURNS[:-1]).text == theirs.apply_chat_template(
        TURNS[:-1], tokenize=False, add_generation_prompt=True
    )
    (tokens,) = ours.encode([spoken])
    assert tokens.ids == theirs(spoken.text, add_special_tokens=False)["input_ids"]


def test_loss_is_on_the_assistant_mask_of_transformers() -> None:
    theirs: Any = make_tokenizer().apply_chat_template(
        TURNS, return_dict=True, return_assistant_tokens_mask=True
    )
    ours = renderer()
    (tokens,) = ours.encode([*ours.sequences(Record(kind="sft", messages=TURNS)).values()])
    assert tokens.mask() == [bool(carries) for carries in theirs["assistant_masks"]]
    assert 0 < sum(tokens.mask()) < len(tokens.ids)


@pytest.mark.parametrize("name", CASES)
def test_files_are_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    make_case_tokenizer(CASES[name]).save_pretrained(tmp_path)
    light = read_tokenizer(tmp_path)
    theirs = from_transformers(AutoTokenizer.from_pretrained(tmp_path))
    assert (light.key, light.special_texts) == (theirs.key, theirs.special_texts)
    assert (light.template, light.eos) == (CASES[name].template, CASES[name].eos)


def test_text_is_asked_and_answered_in_turns() -> None:
    ours = renderer()
    asked, reply = ({"role": r, "content": c} for r, c in (("user", "Why?"), ("assistant", "So.")))
    spoken = answered(ours, "Why?", "So.")
    assert spoken == answered(ours, [asked], [reply])
    assert spoken.text == make_tokenizer().apply_chat_template([asked, reply], tokenize=False)
    assert ours.prompt("Why?") == ours.prompt([asked])


def test_text_without_a_template_gets_the_end_token_once() -> None:
    for model in (renderer(None), renderer(as_chat=False)):
        for answer in (" So.", " So.<|im_end|>"):
            spoken = answered(model, "Why?", answer)
            assert spoken.text == "Why? So.<|im_end|>"
            assert learned(spoken) == [" So.<|im_end|>"]
        assert model.sequences(Record(kind="text", text="Read."))["text"].text == "Read.<|im_end|>"
        assert model.prompt("Why?").text == "Why?"


@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
def test_a_key_decides_which_turns_carry_loss(loss_on: Any) -> None:
    ours = renderer(loss_on=loss_on)
    spoken = ours.sequences(Record(kind="sft", messages=TURNS))["messages"]
    wanted = {
        "assistant": ["四。<|im_end|>", "Hello!<|im_end|>"],
        "last": ["Hello!<|im_end|>"],
        "all": [spoken.text],
    }
    assert learned(spoken) == wanted[loss_on]
    prompted = answered(ours, TURNS[:-1], TURNS[-1:])
    assert learned(prompted) == [spoken.text if loss_on == "all" else "Hello!<|im_end|>"]


@pytest.mark.parametrize("key", [{"weight": 0}, {"weight": 0.0}, {"loss": False}, {"train": False}])
@pytest.mark.parametrize("loss_on", ["assistant", "last"])
def test_a_turn_may_carry_no_loss(key: dict[str, Any], loss_on: Any) -> None:
    ours = renderer(loss_on=loss_on)
    first = [*TURNS[:2], {**TURNS[2], **key}, *TURNS[3:]]
    last = [*TURNS[:4], {**TURNS[4], **key}]
    found = [
        learned(ours.sequences(Record(kind="sft", messages=turns))["messages"])
        for turns in (first, last)
    ]
    assert found[0] == ["Hello!<|im_end|>"]
    everything = renderer(loss_on="all").sequences(Record(kind="sft", messages=first))["messages"]
    assert "四。<|im_end|>" not in "".join(learned(everything))
    assert len("".join(learned(everything))) == len(everything.text) - len("四。<|im_end|>")
    assert found[1] == ([] if loss_on == "last" else ["四。<|im_end|>"])
    kept = [*TURNS[:4], {**TURNS[4], "weight": 1, "loss": None}]
    assert learned(ours.sequences(Record(kind="sft", messages=kept))["messages"])[-1:] == [
        "Hello!<|im_end|>"
    ]


def test_turns_in_a_completion_carry_loss_one_by_one() -> None:
    spoken = answered(renderer(), TURNS[:2], [{**TURNS[2], "weight": 0}, *TURNS[3:]])
    assert learned(spoken) == ["Hello!<|im_end|>"]
    spoken = answered(renderer(), TURNS[:2], TURNS[2:])
    assert learned(spoken) == ["四。<|im_end|>", "Hello!<|im_end|>"]


def test_both_sides_of_a_pair_begin_where_the_answer_does() -> None:
    ours = renderer(PLAIN_TEMPLATE)
    for prompt in ("Why?", "How?", "Why?"):
        record = Record(kind="preference", prompt=prompt, chosen="So.", rejected="Thus!")
        for answer, spoken in zip(("So.", "Thus!"), ours.sequences(record).values(), strict=True):
            assert spoken.text == f"[user]{prompt}[assistant]{answer}"
            assert learned(spoken) == [answer]
            assert spoken.answer == len(f"[user]{prompt}[assistant]")


def test_a_prompt_may_be_an_answer_to_go_on_with() -> None:
    ours = renderer()
    begun = ours.prompt([TURNS[1], {"role": "assistant", "content": "It is"}]).text
    assert begun == ours.prompt([TURNS[1]]).text + "It is"


def test_tokens_are_counted_by_the_role_that_wrote_them() -> None:
    ours = renderer()
    (tokens,) = ours.encode([*ours.sequences(Record(kind="sft", messages=TURNS)).values()])
    ids = dict.fromkeys(("system", "user"), 0)
    for turn in TURNS:
        if turn["role"] in ids:
            ids[turn["role"]] += len(make_tokenizer()(turn["content"])["input_ids"])
    assert dict(tokens.by_role) == {
        **ids,
        "assistant": sum(tokens.mask()),
        "template": len(tokens.ids) - sum(ids.values()) - sum(tokens.mask()),
    }


def test_plain_text_is_one_part_that_carries_loss_as_a_whole() -> None:
    model = renderer(None)
    text = "Read.<|im_end|>"
    spoken = model.sequences(Record(kind="text", text="Read."))["text"]
    assert spoken == Spoken(text, ((0, len(text)),), 0, (Part("text", 0, len(text)),), True)
    (tokens,) = model.encode([spoken])
    assert tokens.mask() == [True] * len(tokens.ids)
    assert dict(tokens.by_role) == {"text": len(tokens.ids), "template": 0}
    assert tokens.answer == 0


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_plain_prompts_and_answers_are_two_parts(loss_on: Any) -> None:
    model = renderer(None, loss_on=loss_on)
    spoken = answered(model, "Why? ", "So.")
    end = len(spoken.text)
    parts = (Part("user", 0, 5), Part("assistant", 5, end))
    start = 0 if loss_on == "all" else 5
    assert spoken == Spoken("Why? So.<|im_end|>", ((start, end),), 5, parts, True)
    (tokens,) = model.encode([spoken])
    assert sum(tokens.by_role.values()) == len(tokens.ids)
    assert tokens.answer == tokens.by_role["user"]
    assert tokens.mask() == [
        loss_on == "all" or at >= tokens.answer for at in range(len(tokens.ids))
    ]
    assert count_roles([tokens, tokens]) == (
        {role: 2 * number for role, number in tokens.by_role.items()},
        2 * sum(tokens.mask()),
    )


def test_sequences_with_and_without_a_template_keep_their_order() -> None:
    chat, plain = renderer(), renderer(as_chat=False)
    spoken = [
        *plain.sequences(Record(kind="text", text="One.")).values(),
        *chat.sequences(Record(kind="sft", messages=TURNS)).values(),
        *plain.sequences(Record(kind="text", text="Two words.")).values(),
    ]
    together = chat.encode(spoken)
    assert [one.ids for one in together] == [chat.encode([one])[0].ids for one in spoken]
    assert [one.loss for one in together] == [chat.encode([one])[0].loss for one in spoken]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer.json here"):
        read_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        answered(renderer(None), TURNS[:2], TURNS[2:3])
    refusing = renderer("{{ raise_exception('no system') }}")
    with pytest.raises(Unusable, match="refuses this row: no system"):
        answered(refusing, TURNS[:2], TURNS[2:3])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer.json: cannot be read"):
        read_tokenizer(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("x" * 300_000)
    with pytest.raises(ConfigError, match="the chat template has 300,000 characters"):
        read_tokenizer(tmp_path)


def test_named_templates_in_a_config_are_read(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    assert read_tokenizer(tmp_path).template == "d"


def test_saved_limits_and_padding_of_a_tokenizer_are_not_applied(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    light = read_tokenizer(tmp_path)
    assert len(light.encoder.encode("q" * 20).ids) == 20


@pytest.mark.parametrize("reserved", "\ufdd0\ufdd1\ufdd2\ufdd3")
def test_characters_that_mark_places_are_refused(reserved: str) -> None:
    turns = [TURNS[1], {"role": "assistant", "content": f"a{reserved}b"}]
    with pytest.raises(Unusable, match="which Unicode reserves"):
        renderer().sequences(Record(kind="sft", messages=turns))
    with pytest.raises(Unusable, match="which Unicode reserves"):
        renderer().prompt([{"role": "user", "content": reserved}])


TOOLS_TEMPLATE = (
    "{% if tools %}<{% for t in tools %}{{ t.function.name }}{% endfor %}>{% endif %}"
    "{% if mood %}({{ mood }}){% endif %}" + PLAIN_TEMPLATE
)


@pytest.mark.parametrize("answered", [False, True])
def test_the_prompt_of_a_row_has_its_tools_and_variables(answered: bool) -> None:
    tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": "add"}}]
    turns = [{"role": "user", "content": "q"}]
    record = Record("prompt", turns, tools=tools, template_kwargs={"mood": "calm", "other": 1})
    model = renderer(TOOLS_TEMPLATE)
    asked = [*turns, {"role": "assistant", "content": "so"}] if answered else turns
    end = "[assistant]so" if answered else "[assistant]"
    assert model.prompt(asked, record).text == f"<add>(calm)[user]q{end}"
    assert model.prompt(asked).text == f"[user]q{end}"
    assert model.ignored(record) == ("chat_template_kwargs.other",)
    assert model.ignored(Record("prompt", turns)) == ()


def test_a_sequence_without_a_prompt_has_its_answer_at_its_first_token() -> None:
    """The tokenizer may begin with a token of its own, which is before the answer then."""
    model = renderer(None)
    (tokens,) = model.encode([Spoken("Hello", ((0, 5),), 0, plain=True)])
    assert tokens.answer == 0
    (tokens,) = model.encode([Spoken("", (), 0, plain=True)])
    assert tokens.answer == 0
    with pytest.raises(Unusable, match="0 embeddings"):
        tokens.check_embeddings(0)
    assert tokens.check_embeddings(1) is None
