"""Formats with one answer to a prompt, one text, or only a prompt."""

import itertools
from dataclasses import replace

from data_tools.formats.record import (
    TEXT_OR_TURNS,
    Adapter,
    Data,
    Record,
    Unusable,
    alias,
    flag,
    members,
    text,
)
from data_tools.formats.turns import (
    answer,
    as_messages,
    flattened,
    messages,
    supervised,
)


def alpaca(data: Data) -> Record:
    """`instruction, output`."""
    return supervised(text(data, "instruction"), text(data, "output"))


def belle(data: Data) -> Record:
    """BELLE multi-turn: the turns flattened into `instruction`, ending in `Assistant:`."""
    turns = flattened(text(data, "instruction"))
    if turns is None:
        raise Unusable("no_markers", "'instruction' is not 'Human:… Assistant:'")
    return supervised(turns, text(data, "output"))


def sharegpt(data: Data) -> Record:
    """`conversations: [{from, value}]`, ending in an answer."""
    key = alias(data, "conversations")
    return conversation(messages(data[key], key))


def lima(data: Data) -> Record:
    """LIMA: `conversations` as texts, of the user and the assistant in turn."""
    key = alias(data, "conversations")
    said = members(data, key)
    if len(said) < 2 or not all(isinstance(one, str) for one in said):
        raise Unusable("no_answer", f"{key!r} holds no answer: nothing to learn")
    roles = itertools.cycle(("user", "assistant"))
    turns = [{"role": role, "content": one} for role, one in zip(roles, said, strict=False)]
    return conversation(turns)


def chat(data: Data) -> Record:
    """`messages: [{role, content}]`, ending in an answer."""
    return conversation(messages(data["messages"], "messages"))


def conversation(turns: list[dict[str, str]]) -> Record:
    """Make an SFT record of a conversation that has an answer."""
    if all(turn["role"] != "assistant" for turn in turns):
        raise Unusable("no_answer", "no turn of the assistant: nothing to learn")
    return Record("sft", messages=turns)


def prompt_completion(data: Data) -> Record:
    """`prompt, completion`, as text or messages; only what is in the completion is learned."""
    question = answer(data[alias(data, "prompt")], "prompt")
    reply = answer(data[alias(data, "completion")], "completion")
    if isinstance(question, str) and isinstance(reply, str):
        return supervised(question, reply)
    asked, replied = as_messages(question, "user"), as_messages(reply, "assistant")
    if all(turn["role"] != "assistant" for turn in replied):
        raise Unusable("no_answer", "no turn of the assistant in 'completion': nothing to learn")
    return Record("sft", asked, completion=replied)


def unpaired(data: Data) -> Record:
    """TRL's KTO rows: `prompt, completion, label`."""
    return replace(prompt_completion(data), kind="unpaired", label=flag(data, "label"))


def kto_messages(data: Data) -> Record:
    """LLaMA-Factory's KTO rows: `messages` or `conversations`, with `label` or `kto_tag`."""
    key = alias(data, "messages")
    label = flag(data, "label" if "label" in data else "kto_tag")
    return _labelled(messages(data[key], key), label)


def kto_alpaca(data: Data) -> Record:
    """LLaMA-Factory's KTO rows in alpaca keys: `instruction, input, output, kto_tag`."""
    return replace(prompt_completion(data), kind="unpaired", label=flag(data, "kto_tag"))


def _labelled(turns: list[dict[str, str]], label: bool) -> Record:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise Unusable("no_answer", "the last turn is not the assistant's: nothing to judge")
    return Record("unpaired", turns[:-1], completion=turns[-1:], label=label)


def prompt_only(data: Data) -> Record:
    """Only a prompt, as text or messages."""
    return Record("prompt", answer(data[alias(data, "prompt")], "prompt"))


def bench_turns(data: Data) -> Record:
    """MT-Bench questions: `question_id, turns`; the first turn is the prompt."""
    first = next(iter(members(data, "turns")), None)
    if not isinstance(first, str):
        raise Unusable("wrong_type", "'turns' holds no text")
    return Record("prompt", first)


def plain_text(data: Data) -> Record:
    """`text`: continued pre-training."""
    return Record("text", text=text(data, "text"))


def is_flattened(data: Data) -> bool:
    """Whether an instruction holds a whole conversation, as BELLE writes it."""
    instruction = data["instruction"]
    if "label" in data or "kto_tag" in data:  # then it is feedback
        return False
    return instruction.startswith("Human:") and flattened(instruction) is not None


LABEL = "flag|number|text|null|object|list"
"""A label that cannot be read makes the row unusable; without it a bad answer would be learned."""
FORMATS = (
    Adapter("alpaca", {"instruction": "text", "output": "text"}, alpaca),
    Adapter("belle", {"instruction": "text", "output": "text"}, belle, when=is_flattened),
    Adapter("sharegpt", {"conversations": "turns"}, sharegpt, aliased=True),
    Adapter("lima", {"conversations": "texts"}, lima, aliased=True),
    Adapter("kto-messages", {"messages": "turns", "label": LABEL}, kto_messages, aliased=True),
    Adapter("kto-sharegpt", {"messages": "turns", "kto_tag": LABEL}, kto_messages, aliased=True),
    Adapter(
        "kto-alpaca",
        {"prompt": TEXT_OR_TURNS, "completion": TEXT_OR_TURNS, "kto_tag": LABEL},
        kto_alpaca,
        aliased=True,
    ),
    Adapter("mt-bench", {"question_id": "number|text", "turns": "texts"}, bench_turns),
    Adapter(
        "unpaired",
        {"prompt": TEXT_OR_TURNS, "completion": TEXT_OR_TURNS, "label": LABEL},
        unpaired,
        aliased=True,
    ),
    Adapter("messages", {"messages": "turns"}, chat, strength=1),
    Adapter(
        "prompt-completion",
        {"prompt": TEXT_OR_TURNS, "completion": TEXT_OR_TURNS},
        prompt_completion,
        aliased=True,
        strength=1,
    ),
    Adapter("text", {"text": "text"}, plain_text, strength=0),
    Adapter("prompt", {"prompt": TEXT_OR_TURNS}, prompt_only, aliased=True, strength=0),
)
