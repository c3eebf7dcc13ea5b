"""What stands around an answer in any format: system, history, input, tools, media, reasoning.

The adapters read a question and its answers. The columns here mean the same in every format, so
they are read in one place: each is used, or the row is refused with the name of the column.
"""

import itertools
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from data_tools.formats.record import (
    READ_INTO_PROMPT,
    REASONING,
    SYSTEM,
    TEMPLATE_INPUTS,
    Data,
    Message,
    Record,
    Text,
    Unusable,
    is_filled,
    json_value,
    number,
    shown,
    text,
    with_template_inputs,
)
from data_tools.formats.turns import (
    as_messages,
    assistant,
    media_in,
    messages,
    supervised,
    user,
    with_input,
)

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-score", "rejected-score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("reward_chosen", "reward_rejected"),
    ("chosen_reward", "rejected_reward"),
)
"""Names of the scores of both sides of a pair."""
NUMBERED = frozenset({"margin", *itertools.chain.from_iterable(SCORES)})
WEIGHTS = frozenset(
    {"weight", "weights", "sample_weight", "loss_weight", "loss_scale", "loss_mask"}
)


def with_context(record: Record, data: Data, names: Collection[str]) -> Record:
    """Add what the columns of a row say about its question to a record.

    Args:
        record: What the format has made of the row.
        data: The row.
        names: The columns of CONTEXT that the format itself does not read.

    Raises:
        Unusable: If a column is of another type, or the record has no place for it.
    """
    # OpenAI's own files have the list of tools also if it is empty
    found = {n: data[n] for n in names if is_filled(data[n]) or (n == "tools" and data[n] == [])}
    if not found:
        return record
    if record.kind == "text":
        if filled := [name for name, value in found.items() if value]:
            raise _no_place(filled[0], "plain text")
        return record
    for name in READ_INTO_PROMPT:
        if name in found:
            record = _with_text_below(record, name, text(data, name))
    if not found.keys().isdisjoint((*SYSTEM, "history")):
        record = _with_turns_before(record, _system(found), _history(found.get("history")))
    for name in REASONING:
        if name in found and record.kind != "prompt":
            record = _with_reasoning(record, name, text(data, name))
    if not found.keys().isdisjoint(TEMPLATE_INPUTS):
        record = with_template_inputs(record, found)
    return record


def refuse_media(data: Data) -> None:
    """See that a row has no images, videos or sound, of which a text model would learn nothing.

    Raises:
        Unusable: With the code `not_text` and the name of the column.
    """
    name = media_in(data)
    if name is not None:
        raise Unusable(
            "not_text",
            f"{name!r} holds {shown(data[name])}: only text is learned",
            "leave such rows out, or empty the column if the text makes sense without it",
        )


def refuse_weights(data: Data) -> None:
    """See that a row has no weight of its own: the stages have weights of turns and of sources.

    Raises:
        Unusable: With the code `not_used` and the name of the column.
    """
    if WEIGHTS.isdisjoint(data):
        return
    for name in data:
        value = data[name]
        if name in WEIGHTS and isinstance(value, int | float | list) and value != 1:
            raise Unusable(
                "not_used",
                f"{name!r} is {shown(value)}: rows have no weights of their own",
                "delete the column, or give turns the weight 0 or 1, or sources theirs (path:0.3)",
            )


def scores_of_sides(data: Data) -> tuple[str, ...]:
    """Return the columns that say how much better the chosen answer is: a margin, two scores."""
    if NUMBERED.isdisjoint(data):
        return ()
    found = ("margin",) if data.get("margin") is not None else ()
    pairs = (pair for pair in SCORES if all(data.get(name) is not None for name in pair))
    return (*found, *itertools.chain.from_iterable(pairs))


def margin_of(data: Data) -> float | None:
    """Return the margin of a pair, or the difference of the scores of its sides, or None.

    Raises:
        Unusable: If they are no numbers.
    """
    names = scores_of_sides(data)
    if not names:
        return None
    first = number(data, names[0])
    return first if names[0] == "margin" else first - number(data, names[1])


def _system(found: Data) -> str:
    """The system prompt of a row.

    Raises:
        Unusable: If it is no text, or two columns name different ones.
    """
    names = [name for name in SYSTEM if name in found]
    for name in names[1:]:
        if found[name] != found[names[0]]:
            raise Unusable("two_systems", f"{names[0]!r} and {name!r} differ", "keep one of them")
    return text(found, names[0]) if names else ""


def _history(value: Any) -> list[Message]:
    """Read earlier turns: `[question, answer]` pairs, or messages; also as JSON text."""
    earlier = json_value(value)
    if earlier is None:
        return []
    if not isinstance(earlier, list):
        raise Unusable("wrong_type", f"'history' is {shown(earlier)}, wanted a list")
    if all(isinstance(turn, dict) for turn in earlier):
        return messages(earlier, "history")
    turns: list[Message] = []
    for i, pair in enumerate(earlier):
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)
        ):
            raise Unusable(
                "wrong_type", f"history[{i}] is {shown(pair)}, wanted [question, answer]"
            )
        turns += user(pair[0]) + assistant(pair[1])
    return turns


def _with_text_below(record: Record, name: str, given: str) -> Record:
    if isinstance(record.prompt, str) and record.messages is None:
        if name != "input" and given.strip() in record.prompt:  # the question repeats it
            return record
        return replace(record, prompt=with_input(record.prompt, given))
    asked = record.prompt if record.messages is None else record.messages
    if any(given.strip() in turn["content"] for turn in asked if isinstance(turn, dict)):
        return record
    raise _no_place(name, "a conversation")


def _with_turns_before(record: Record, system: str, earlier: list[Message]) -> Record:
    """Put a system prompt and earlier turns before what is asked."""
    if record.messages is not None:
        return replace(record, messages=_before(record.messages, system, earlier))
    prompt = _before(as_messages(record.prompt, "user"), system, earlier)
    if record.kind == "sft" and isinstance(record.completion, str):
        return replace(supervised(prompt, record.completion), tools=record.tools)
    return replace(
        record,
        prompt=prompt,
        chosen=_turned(record.chosen),
        rejected=_turned(record.rejected),
        completion=_turned(record.completion),
        answers=tuple(_turned(answer) for answer in record.answers),
    )


def _turned(answer: Text) -> Text:
    return as_messages(answer, "assistant") if answer else answer


def _before(turns: list[Message], system: str, earlier: list[Message]) -> list[Message]:
    """Return turns after a system prompt and earlier turns; a system prompt is there only once."""
    first = turns[0] if turns and turns[0]["role"] == "system" else None
    if first is not None:
        if system and first["content"].strip() != system.strip():
            raise Unusable(
                "two_systems",
                "the system prompt of the column and that of the turns differ",
                "keep one of them",
            )
        return [first, *earlier, *turns[1:]]
    return [*([{"role": "system", "content": system}] if system else []), *earlier, *turns]


def _with_reasoning(record: Record, name: str, thoughts: str) -> Record:
    """Give the one answer of a record the thoughts that led to it."""
    turns = record.messages
    if turns is None:
        if record.kind not in ("sft", "unpaired") or not record.completion:
            raise _no_place(name, "several answers")
        answer = as_messages(record.completion, "assistant")
        prompt = as_messages(record.prompt, "user")
        return replace(record, prompt=prompt, completion=_thought(answer, name, thoughts))
    return replace(record, messages=_thought(turns, name, thoughts))


def _thought(turns: list[Message], name: str, thoughts: str) -> list[Message]:
    if turns[-1]["role"] != "assistant":
        raise _no_place(name, "a conversation that ends without an answer")
    return [*turns[:-1], {name: thoughts, **turns[-1]}]


def _no_place(name: str, where: str) -> Unusable:
    return Unusable(
        "not_used", f"{name!r} has no place in {where}", "move it into the text, or empty it"
    )
