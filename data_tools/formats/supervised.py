"""Formats with one answer to a prompt, one text, or only a prompt."""

from dataclasses import replace

from data_tools.formats.record import (
    TEXT_OR_TURNS,
    Adapter,
    Data,
    Record,
    Unusable,
    alias,
    members,
    text,
)
from data_tools.formats.turns import (
    answer,
    as_messages,
    context,
    flattened,
    messages,
    supervised,
    with_input,
)


def alpaca(data: Data) -> Record:
    """`instruction, input, output`, with `system` and `history` if given."""
    return supervised(context(data, with_input(data)), text(data, "output"))


def belle(data: Data) -> Record:
    """BELLE multi-turn: the turns flattened into `instruction`, ending in `Assistant:`."""
    turns = flattened(text(data, "instruction"))
    if turns is None:
        raise Unusable("no_markers", "'instruction' is not 'Human:… Assistant:'")
    return supervised(turns, text(data, "output"))


def sharegpt(data: Data) -> Record:
    """`conversations: [{from, value}]`, ending in an answer."""
    turns = messages(data["conversations"], "conversations")
    system = text(data, "system", default="")
    return conversation([{"role": "system", "content": system}, *turns] if system else turns)


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
    return replace(prompt_completion(data), kind="unpaired", label=data["label"])


def kto_messages(data: Data) -> Record:
    """LLaMA-Factory's KTO rows: `messages, label`."""
    return _labelled(messages(data["messages"], "messages"), data["label"])


def kto_alpaca(data: Data) -> Record:
    """LLaMA-Factory's KTO rows in alpaca keys: `instruction, input, output, kto_tag`."""
    record = alpaca(data)
    if record.messages is not None:
        return _labelled(record.messages, data["kto_tag"])
    return replace(record, kind="unpaired", label=data["kto_tag"])


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
    return instruction.startswith("Human:") and flattened(instruction) is not None


FORMATS = (
    Adapter("alpaca", {"instruction": "text", "output": "text"}, alpaca),
    Adapter("belle", {"instruction": "text", "output": "text"}, belle, when=is_flattened),
    Adapter("sharegpt", {"conversations": "turns"}, sharegpt),
    Adapter("kto-messages", {"messages": "turns", "label": "flag"}, kto_messages),
    Adapter("kto-alpaca", {"instruction": "text", "output": "text", "kto_tag": "flag"}, kto_alpaca),
    Adapter("mt-bench", {"question_id": "number|text", "turns": "texts"}, bench_turns),
    Adapter(
        "unpaired",
        {"prompt": TEXT_OR_TURNS, "completion": TEXT_OR_TURNS, "label": "flag"},
        unpaired,
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
