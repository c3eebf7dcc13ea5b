"""Formats whose rows say which of two answers is better."""

import re

from data_tools.formats.record import (
    TEXT_OR_TURNS,
    Adapter,
    Data,
    Record,
    Text,
    Unusable,
    alias,
    members,
    number,
    text,
    with_template_inputs,
)
from data_tools.formats.turns import (
    answer,
    as_messages,
    dialogue,
    messages,
    pair_of,
    split_implicit,
)

ANSWER = "text|object|turns"
EXTRA_ID = re.compile(r"<extra_id_[01]>(System|User|Assistant)\n")


def pair(data: Data) -> Record:
    """`prompt, chosen, rejected` under any of their aliases."""
    prompt = answer(data[alias(data, "prompt")], "prompt")
    return pair_of(prompt, *_sides(data))


def implicit(data: Data) -> Record:
    """`chosen, rejected` that both begin with the prompt."""
    return split_implicit(*_sides(data))


def binarized(data: Data) -> Record:
    """UltraFeedback binarized (H4, Argilla): whole conversations, and the prompt again."""
    sides = _sides(data)
    if all(not isinstance(side, str) and side[0]["role"] == "assistant" for side in sides):
        return pair_of(text(data, "prompt"), *sides)  # answers alone
    return split_implicit(*_sides(data))


def hh(data: Data) -> Record:
    """HH-RLHF: two dialogues that must be equal in all turns but the last."""
    chosen, rejected = dialogue(text(data, "chosen")), dialogue(text(data, "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("prompt_mismatch", "chosen and rejected differ before the last turn")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Unusable("no_answer", "the last turn is not the assistant's")
    return pair_of(chosen[:-1], chosen[-1:], rejected[-1:])


def hh_split(data: Data) -> Record:
    """HH split into columns (Dahoas, yitingxie): a dialogue as prompt, answers with a marker."""
    turns = dialogue(text(data, "prompt"))
    opened = turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip()
    # the marker is either at the end of the prompt or at the beginning of both answers
    marker = "" if opened else "Assistant:"
    chosen, rejected = (
        text(data, key).removeprefix("\n\n").removeprefix(marker).removeprefix(" ")
        for key in ("chosen", "rejected")
    )
    return pair_of(turns[:-1] if opened else turns, chosen, rejected)


def alpaca_ranking(data: Data) -> Record:
    """LLaMA-Factory: alpaca keys with `chosen, rejected` instead of the output."""
    return pair_of(text(data, "instruction"), *_sides(data))


def turns_ranking(data: Data) -> Record:
    """A conversation in `conversations` or `messages`, and one answer each in both sides.

    Some files repeat the chosen answer, or the whole conversation in both sides.
    """
    key = alias(data, "messages")
    turns, (chosen, rejected) = messages(data[key], key), _sides(data)
    sides = [as_messages(side, "assistant") for side in (chosen, rejected)]
    if all(len(side) > 1 and side[0]["role"] != "assistant" for side in sides):
        return split_implicit(*sides)
    if turns[-1]["role"] == "assistant":
        if turns[-1:] != sides[0]:
            raise Unusable("prompt_mismatch", f"{key!r} ends in an answer that is not 'chosen'")
        turns = turns[:-1]
    if not turns:
        raise Unusable("no_prompt", f"{key!r} holds no question")
    return pair_of(turns, *sides)


def chosen_messages(data: Data) -> Record:
    """LLaMA-Factory v1: two whole conversations."""
    sides = (messages(data[key], key) for key in ("chosen_messages", "rejected_messages"))
    return split_implicit(*sides)


def ms_swift(data: Data) -> Record:
    """ms-swift: `messages` that end in the chosen answer, and `rejected_response`."""
    key = alias(data, "messages")
    turns = messages(data[key], key)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise Unusable("no_answer", "the last turn is not the assistant's")
    return pair_of(turns[:-1], turns[-1:], answer(data["rejected_response"], "rejected_response"))


def query(data: Data) -> Record:
    """ms-swift: `query`, the chosen answer in `response`, and `rejected_response`."""
    return pair_of(*(text(data, key) for key in ("query", "response", "rejected_response")))


def rejected_messages(data: Data) -> Record:
    """ms-swift: two whole conversations, `messages` and `rejected_messages`."""
    key = alias(data, "messages")
    rejected = answer(data["rejected_messages"], "rejected_messages")
    turns = messages(data[key], key)
    if isinstance(rejected, str) or rejected[0]["role"] == "assistant":
        return pair_of(turns[:-1], turns[-1:], rejected)
    return split_implicit(turns, rejected)


def dikw(data: Data) -> Record:
    """hh_rlhf_cn: turns in `context`, and one turn each in `chosen` and `rejected`."""
    return pair_of(messages(data["context"], "context"), *_sides(data))


def openai(data: Data) -> Record:
    """OpenAI's preference rows: `input.messages` and one assistant message per side."""
    prompt = messages(data["input"].get("messages"), "input.messages")
    sides = [messages(data[key], key) for key in ("preferred_output", "non_preferred_output")]
    if any(len(side) != 1 or side[0]["role"] != "assistant" for side in sides):
        raise Unusable("not_one_answer", "each side must be one message of the assistant")
    # OpenAI's own files write an empty list for rows without tools
    return with_template_inputs(
        pair_of(prompt, *sides), {"tools": data["input"].get("tools") or None}
    )


def nemo(data: Data) -> Record:
    """NeMo-Aligner: the `<extra_id_…>` template, split into messages."""
    parts = EXTRA_ID.split(text(data, "prompt"))
    if parts[0].replace("<extra_id_0>", "").strip() or len(parts) < 3:
        raise Unusable("no_markers", "'prompt' is not NeMo's <extra_id_…> template")
    turns = [
        {"role": parts[i].lower(), "content": parts[i + 1].removesuffix("\n")}
        for i in range(1, len(parts), 2)
    ]
    prompt = [turn for turn in turns if turn["content"].strip()]
    sides = (text(data, f"{side}_response") for side in ("chosen", "rejected"))
    return pair_of(
        prompt, *(side.removesuffix("<extra_id_1>").removesuffix("\n") for side in sides)
    )


def safer(data: Data) -> Record:
    """PKU-SafeRLHF by safety; `pku-saferlhf` uses helpfulness."""
    return _pku(data, "safer_response_id")


def better(data: Data) -> Record:
    """PKU-SafeRLHF by helpfulness."""
    return _pku(data, "better_response_id")


def better_and_safer(data: Data) -> Record:
    """PKU-SafeRLHF, only rows in which both labels name the same answer."""
    if number(data, "better_response_id") != number(data, "safer_response_id"):
        raise Unusable("labels_disagree", "the better answer is not the safer one")
    return better(data)


def shp(data: Data) -> Record:
    """SHP: two replies and `labels` (1: A is better); the margin is the difference of votes."""
    label = number(data, "labels")
    if label not in (0, 1):
        raise Unusable("wrong_type", f"'labels' is {label:g}, wanted 0 or 1")
    best, worst = ("A", "B") if label == 1 else ("B", "A")
    # votes may contradict the label: the margin is then negative, which the checks report
    scored = "score_A" in data and "score_B" in data
    margin = number(data, f"score_{best}") - number(data, f"score_{worst}") if scored else None
    chosen, rejected = (text(data, f"human_ref_{side}") for side in (best, worst))
    return pair_of(text(data, "history"), chosen, rejected, margin=margin)


def strength_pair(data: Data) -> Record:
    """HelpSteer2-preference and 3: a strength from -3 (first better) to 3; 0 is a tie."""
    old = "response_1" in data
    strength = number(data, "preference_strength" if old else "overall_preference")
    answers = ("response_1", "response_2") if old else ("response1", "response2")
    # a tie (0) is kept with the margin 0, which conversion drops and counts
    best, worst = answers if strength < 0 else answers[::-1]
    prompt: Text = (
        messages(data["context"], "context") if "context" in data else text(data, "prompt")
    )
    return pair_of(prompt, text(data, best), text(data, worst), margin=abs(strength))


def alpaca_eval(data: Data) -> Record:
    """AlpacaEval: 1 or 2 names the better output, 0 and 1.5 are ties; v2 has values between."""
    preference = number(data, "preference")
    if preference and not 1 <= preference <= 2:
        raise Unusable("wrong_type", f"'preference' is {preference:g}, wanted 0 or 1 to 2")
    # 0 marks a tie, as 1.5 does
    margin = abs(preference - 1.5) if preference else 0.0
    best, worst = ("output_1", "output_2") if preference < 1.5 else ("output_2", "output_1")
    return pair_of(text(data, "instruction"), text(data, best), text(data, worst), margin=margin)


def paddle(data: Data) -> Record:
    """PaddleNLP: turns in `src` and `tgt`, two answers in `response`, `sort` 1 for the better."""
    asked, answered, pair = (members(data, key) for key in ("src", "tgt", "response"))
    order = members(data, "sort")
    if len(asked) != len(answered) + 1 or len(pair) != 2 or sorted(map(str, order)) != ["0", "1"]:
        raise Unusable(
            "wrong_type", "wanted one more 'src' than 'tgt', two answers, 'sort' 0 and 1"
        )
    turns = [{"role": "user", "content": asked[0]}]
    for reply, question in zip(answered, asked[1:], strict=True):
        turns += [{"role": "assistant", "content": reply}, {"role": "user", "content": question}]
    first = int(order[0]) == 1
    prompt: Text = messages(turns, "src") if answered else answer(asked[0], "src")
    best, worst = pair if first else pair[::-1]
    return pair_of(prompt, answer(best, "response"), answer(worst, "response"))


def _pku(data: Data, key: str) -> Record:
    best = number(data, key)
    if best not in (0, 1):
        raise Unusable("wrong_type", f"{key!r} is {best:g}, wanted 0 or 1")
    answers = (text(data, f"response_{int(best)}"), text(data, f"response_{1 - int(best)}"))
    return pair_of(text(data, "prompt"), *answers)


def _sides(data: Data) -> tuple[Text, Text]:
    chosen, rejected = data[alias(data, "chosen")], data[alias(data, "rejected")]
    return answer(chosen, "chosen"), answer(rejected, "rejected")


def _starts_dialogue(data: Data) -> bool:
    """Whether the first text of a row begins like an HH dialogue."""
    first = data["prompt"] if "prompt" in data else data["chosen"]
    return type(first) is str and first.startswith("\n\nHuman:")


def _has_extra_ids(data: Data) -> bool:
    return "<extra_id_1>" in data["prompt"]


#: A table of text (CSV) has its numbers as text.
NUMBER = "number|text"


def _texts(*keys: str) -> dict[str, str]:
    return dict.fromkeys(keys, "text")


PKU = _texts("prompt", "response_0", "response_1") | {"better_response_id": NUMBER}
FORMATS = (
    Adapter("huozi", _texts("prompt", "chosen", "reject"), pair),
    Adapter("hh", _texts("chosen", "rejected"), hh, when=_starts_dialogue),
    Adapter("hh-split", _texts("prompt", "chosen", "rejected"), hh_split, when=_starts_dialogue),
    Adapter(
        "binarized",
        {"prompt": "text", "chosen": "turns", "rejected": "turns"},
        binarized,
    ),
    Adapter(
        "alpaca-ranking",
        {"instruction": "text", "chosen": ANSWER, "rejected": ANSWER},
        alpaca_ranking,
    ),
    Adapter(
        "sharegpt-ranking",
        {"conversations": "turns", "chosen": ANSWER, "rejected": ANSWER},
        turns_ranking,
        aliased=True,
    ),
    Adapter(
        "messages-ranking",
        {"messages": "turns", "chosen": ANSWER, "rejected": ANSWER},
        turns_ranking,
        aliased=True,
        strength=1,
    ),
    Adapter(
        "llamafactory-v1",
        {"chosen_messages": "turns", "rejected_messages": "turns"},
        chosen_messages,
    ),
    Adapter("ms-swift", {"messages": "turns", "rejected_response": ANSWER}, ms_swift, aliased=True),
    Adapter("ms-swift-query", _texts("query", "response", "rejected_response"), query),
    Adapter(
        "ms-swift-messages",
        {"messages": "turns", "rejected_messages": ANSWER},
        rejected_messages,
        aliased=True,
    ),
    Adapter("hh-rlhf-cn", {"context": "turns", "chosen": "object", "rejected": "object"}, dikw),
    Adapter(
        "openai",
        {"input": "object", "preferred_output": "turns", "non_preferred_output": "turns"},
        openai,
    ),
    Adapter(
        "nemo-template",
        _texts("prompt", "chosen_response", "rejected_response"),
        nemo,
        when=_has_extra_ids,
    ),
    *(
        Adapter(name, _texts(*keys), pair)
        for name, *keys in (
            ("nemo", "prompt", "chosen_response", "rejected_response"),
            ("medicalgpt", "question", "response_chosen", "response_rejected"),
            ("orca", "system", "question", "chosen", "rejected"),
            ("cvalues", "prompt", "pos_resp", "neg_resp"),
            ("stack-exchange", "question", "response_j", "response_k"),
        )
    ),
    Adapter("pku-saferlhf", PKU, better),
    Adapter("pku-saferlhf-safer", PKU | {"safer_response_id": NUMBER}, safer, auto=False),
    Adapter("pku-saferlhf-both", PKU | {"safer_response_id": NUMBER}, better_and_safer, auto=False),
    Adapter(
        "shp",
        _texts("history", "human_ref_A", "human_ref_B") | {"labels": NUMBER},
        shp,
        reads=("score_A", "score_B"),
    ),
    Adapter(
        "helpsteer2-preference",
        _texts("prompt", "response_1", "response_2") | {"preference_strength": NUMBER},
        strength_pair,
    ),
    Adapter(
        "helpsteer3",
        _texts("response1", "response2") | {"context": "turns", "overall_preference": NUMBER},
        strength_pair,
    ),
    Adapter(
        "alpaca-eval",
        _texts("instruction", "output_1", "output_2") | {"preference": NUMBER},
        alpaca_eval,
    ),
    Adapter(
        "paddlenlp", {"src": "texts", "tgt": "list", "response": "texts", "sort": "list"}, paddle
    ),
    Adapter(
        "pair",
        {"prompt": TEXT_OR_TURNS, "chosen": ANSWER, "rejected": ANSWER},
        pair,
        aliased=True,
        strength=1,
    ),
    Adapter(
        "implicit",
        {"chosen": ANSWER, "rejected": ANSWER},
        implicit,
        aliased=True,
        strength=1,
    ),
)
