"""Reads the ways in which files write conversations into `{role, content}` messages."""

import json
import re
from typing import Any

from data_tools.formats.record import Data, Message, Record, Text, Unusable, is_filled, shown, text

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
}
KNOWN_ROLES = {"system", "developer", "user", "assistant", "tool"}
NAMES = ("tool_calls", "tool_call_id", "name")
"""Kept unless empty: some templates treat an empty list of calls as a call."""
WEIGHTS = ("weight", "loss", "train")
"""Kept with any value: 0 and false say that the turn carries no loss."""
OTHER_WEIGHTS = ("loss_weight", "loss_scale", "training", "trainable")
"""LLaMA-Factory's, ms-swift's and Axolotl's names for `weight`."""
MASKS = ("mask", "masked", "loss_mask", "train_detail", "ignore")
"""Keys that say which part of a turn carries loss, in ways that are not read."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Kept with any text: to a template an empty text is not the same as none."""
TURN_KEYS = frozenset(
    {"role", "from", "content", "value", "text", "function_call"}
    | {*NAMES, *WEIGHTS, *OTHER_WEIGHTS, *REASONING}
)
"""All that is read of a turn."""
MEDIA = frozenset({"image", "images", "video", "videos", "audio", "audios"})
"""Names under which files hold what a text model cannot learn from."""

HH_MARKER = re.compile(r"\n\n(Human|Assistant):")
ANSWER_MARKERS = (
    "\n\nAssistant:",
    "<|im_start|>assistant\n",
    "<|assistant|>\n",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "[/INST]",
    "### Response:",
    "## Assistant:",
    "\nAssistant:",
)


def messages(value: Any, name: str) -> list[Message]:
    """Read a list of turns: `{role, content}`, `{from, value}` or `{role, text}`.

    Args:
        value: The list.
        name: What messages call it.

    Raises:
        Unusable: If it is not a list of turns, or a turn has no known role or no text.
    """
    if not isinstance(value, list):
        raise Unusable("wrong_type", f"{name!r} is {shown(value)}, wanted a list of messages")
    if not value:
        raise Unusable("empty", f"{name!r} is an empty list")
    return [_message(turn, f"{name}[{i}]") for i, turn in enumerate(value)]


def _message(turn: Any, name: str) -> Message:
    if not isinstance(turn, dict):
        raise Unusable("wrong_type", f"{name} is {shown(turn)}, wanted a message")
    given = turn.get("role", turn.get("from"))
    if not isinstance(given, str):
        raise Unusable("role", f"{name} has no role")
    role = ROLES.get(given.lower(), given.lower())
    if role not in KNOWN_ROLES:
        raise Unusable(
            "role", f"{name} has the role {role!r}", f"known: {', '.join(sorted(KNOWN_ROLES))}"
        )
    # OpenAI, ShareGPT and Open Assistant have different names for it
    content = turn.get("content", turn.get("value", turn.get("text")))
    if isinstance(content, list):
        content = _joined_parts(content, name)
    kept = _kept(turn, name) if len(turn) > 2 or content is None else {}
    if given.lower() == "function_call" and (calls := _calls(content)):
        return {"role": role, "content": "", **kept, "tool_calls": calls}
    # OpenAI writes null as the content of a turn that only calls a tool
    if content is None and "tool_calls" in kept:
        content = ""
    if not isinstance(content, str):
        code = "null" if content is None else "wrong_type"
        raise Unusable(code, f"{name} holds {shown(content)}, wanted text")
    return {"role": role, "content": content, **kept}


def media_in(data: Data) -> str | None:
    """The name of a column or a key that holds an image, a video or sound."""
    if MEDIA.isdisjoint(data):
        return None
    return next((name for name in data if name in MEDIA and is_filled(data[name])), None)


def _calls(content: Any) -> list[dict[str, Any]]:
    """Read the calls of a ShareGPT turn: JSON text of one or several `{name, arguments}`.

    Returns none if the text is something else; the turn is then learned as it is.
    """
    try:
        found = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        return []
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return []
    return [{"type": "function", "function": call} for call in calls]


def _kept(turn: Data, name: str) -> dict[str, Any]:
    """Return what else of a turn a template or the loss mask reads."""
    media = media_in(turn)
    if media is not None:
        raise Unusable("not_text", f"{media!r} of {name} holds {shown(turn[media])}; only text")
    kept = {key: turn[key] for key in NAMES if turn.get(key)}
    if turn.get("function_call"):
        kept["tool_calls"] = [{"type": "function", "function": turn["function_call"]}]
    kept |= _weights(turn, name)
    for key in REASONING:
        if turn.get(key) is not None:
            kept[key] = text(turn, key)
    return kept


def _weights(turn: Data, name: str) -> dict[str, Any]:
    """Return what says whether a turn carries loss."""
    kept: dict[str, Any] = {}
    for key in MASKS:
        if turn.get(key) is not None:
            reason = f"{key!r} of {name} would change what is learned, and is not read"
            raise Unusable("not_used", reason, "write it as 'weight': 1 for turns that carry loss")
    for key in (*WEIGHTS, *OTHER_WEIGHTS):
        if turn.get(key) is not None:
            # a fraction would be taken for 1
            if turn[key] not in (0, 1):
                found = f"{key!r} of {name} is {shown(turn[key])}"
                raise Unusable("wrong_type", f"{found}, wanted 0, 1, true or false")
            if key in WEIGHTS:
                kept[key] = turn[key]
            elif not turn[key]:
                kept["weight"] = 0
    return kept


def _joined_parts(parts: list[Any], name: str) -> str:
    """Join content that is given as parts.

    Raises:
        Unusable: If a part is not text, since it would be lost.
    """
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get("text", part.get("value")) if kind == "text" else None
        if not isinstance(value, str):
            raise Unusable("not_text", f"{name} holds a part of type {kind!r}; only text is read")
        texts.append(value)
    return "".join(texts)


def answer(value: Any, name: str) -> Text:
    """Read an answer: a string, a single turn, or messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return [_message(value, name)]
    return messages(value, name)


def with_input(instruction: str, given: str) -> str:
    """Return a question: the instruction, and the input on a line of its own, if there are both."""
    return "\n".join(part for part in (instruction, given) if part and not part.isspace())


def dialogue(source: str) -> list[Message]:
    """Split an HH dialogue into turns, only at its exact marker: blank line, role, colon.

    Raises:
        Unusable: With the code `no_markers` if the text does not begin with a marker.
    """
    parts = HH_MARKER.split(source)
    if parts[0].strip() or len(parts) == 1:
        raise Unusable("no_markers", "the text does not begin with '\\n\\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[parts[i]], "content": parts[i + 1].removeprefix(" ")}
        for i in range(1, len(parts), 2)
    ]


def flattened(source: str) -> list[Message] | None:
    """Split a prompt whose lines begin with `Human:` and `Assistant:`; None if it is not one."""
    if not source.startswith("Human:") or not source.rstrip().endswith("Assistant:"):
        return None
    parts = re.split(r"(?:^|\n)(Human|Assistant):", source.rstrip())
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[parts[i]], "content": parts[i + 1].removeprefix(" ")}
        for i in range(1, len(parts), 2)
    ]
    return turns[:-1] if not turns[-1]["content"] else None


def user(content: str) -> list[Message]:
    """Make one turn of the user."""
    return [{"role": "user", "content": content}]


def assistant(content: str) -> list[Message]:
    """Make one turn of the assistant."""
    return [{"role": "assistant", "content": content}]


def as_messages(value: Text, role: str) -> list[Message]:
    """Return messages as they are, and text as one turn of `role`."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def pair_of(prompt: Text, chosen: Text, rejected: Text, *, margin: float | None = None) -> Record:
    """Make a preference record whose three parts are all text or all messages."""
    if type(prompt) is not str or type(chosen) is not str or type(rejected) is not str:
        prompt = as_messages(prompt, "user")
        chosen = as_messages(chosen, "assistant")
        rejected = as_messages(rejected, "assistant")
    return Record("preference", prompt, chosen=chosen, rejected=rejected, margin=margin)


def ranked_of(
    prompt: Text, answers: list[Text], scores: list[float] | None = None, *, needed: int = 2
) -> Record:
    """Make a record of several answers to one prompt, in the order of the source.

    Raises:
        Unusable: With the code `one_answer` if there are fewer than `needed` answers.
    """
    if len(answers) < needed:
        raise Unusable("one_answer", f"{len(answers)} answer(s), a pair needs two")
    if type(prompt) is not str or any(type(a) is not str for a in answers):
        prompt = as_messages(prompt, "user")
        answers = [as_messages(a, "assistant") for a in answers]
    return Record(
        "ranked", prompt, answers=tuple(answers), scores=None if scores is None else tuple(scores)
    )


def supervised(prompt: Text, completion: Text) -> Record:
    """Make an SFT record: prompt and completion if both are text, else one conversation."""
    if type(prompt) is str and type(completion) is str:
        return Record("sft", prompt, completion=completion)
    turns = as_messages(prompt, "user") + as_messages(completion, "assistant")
    return Record("sft", messages=turns)


def split_implicit(chosen: Text, rejected: Text) -> Record:
    """Make a pair whose prompt is what both sides begin with, in whole turns, not characters.

    Raises:
        Unusable: If they share no prompt, or one side is the prompt alone.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _split_text(chosen, rejected)
    chosen, rejected = as_messages(chosen, "assistant"), as_messages(rejected, "assistant")
    # turns are compared as a whole: answers that begin in the same words share no prompt
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if chosen == rejected and shared:
        shared -= 1  # equal answers are found by the checks, they are no error of the format
    prompt, sides = chosen[:shared], (chosen[shared:], rejected[shared:])
    if not prompt or prompt[-1]["role"] == "assistant" or not all(sides):
        raise Unusable(
            "prompt_mismatch", "chosen and rejected do not share a prompt of whole turns"
        )
    if any(side[0]["role"] != "assistant" for side in sides):
        raise Unusable("prompt_mismatch", "chosen and rejected differ before the answer")
    return pair_of(prompt, *sides)


def _split_text(chosen: str, rejected: str) -> Record:
    """Split two texts after the last marker of an answer, before which they must be equal."""
    # the last marker: an earlier one ends a question of a conversation
    for marker in ANSWER_MARKERS:
        at = chosen.rfind(marker)
        if at >= 0:
            end = at + len(marker)
            if chosen[:end] != rejected[:end]:
                break
            return pair_of(chosen[:end], chosen[end:], rejected[end:])
    else:
        raise Unusable(
            "no_prompt",
            "no 'prompt', and no marker of an answer in the texts",
            "add a 'prompt' column",
        )
    raise Unusable("prompt_mismatch", "chosen and rejected do not share the prompt")
