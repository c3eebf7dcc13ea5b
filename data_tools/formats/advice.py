"""Guesses by their names what columns hold, to advise on rows that no format fits."""

import functools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data_tools.formats.record import FALSE, READ_INTO_PROMPT, SYSTEM, TRUE, Data, Unusable, listed

ABOUT = re.compile(
    r"(?:.*[_-])?(?:id|ids|uuid|key|hash|index|idx|source|origin|dataset|data_source|subset|split"
    r"|category|categories|type|kind|task|topic|tag|tags|domain|subject|ability|lang|language"
    r"|locale|level|difficulty|model|models|generator|name|title|url|link|license|licence|author"
    r"|date|time|timestamp|speaker|role|created|version|meta|metadata|info)(?:_at|_on)?",
    re.IGNORECASE,
)
"""Names of columns about a row: they hold no question and no answer."""
SCORED = re.compile(
    r"(?:.*[_-])?(?:score|rating|reward|rank|ranking|quality|grade|stars?|votes?|upvotes|margin"
    r"|weight|loss|mask|train(?:ing|able)?)s?(?:[_-].*)?|.*(?:评分|得分|分数|打分|奖励|权重|质量)",
    re.IGNORECASE,
)
"""Names of columns whose numbers say how good or how important an answer is."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_a-zA-Z]")
LOOKS_LIKE_CONTEXT = re.compile(
    r"(?:.*_)?(?:context|passage|document|doc|article|paragraph|background|knowledge|material)s?"
    r"(?:_text)?|.*(?:上下文|背景|材料|资料|文章|段落|知识)",
    re.IGNORECASE,
)
"""Names of columns that seem to hold a part of the question, and that no format reads."""
_NEUTRAL = ("text", "content", "value")
_HINTS: Mapping[str, str] = {
    "label": "label liked like thumb desirable feedback",
    "rejected": "reject rejected lose loser losing lost worse worst bad neg negative dispreferred "
    "wrong incorrect 坏 差 拒 负 劣 错",
    "chosen": "chosen choose win winner winning better best good pos positive preferred prefer "
    "accepted correct selected 好 优 正 选",
    "completion": "completion response answer output target reply solution assistant bot gpt model "
    "generation summary translation 答 回 复 输 出",
    "prompt": "prompt question query instruction input text context user human ask problem "
    "document source 问 题 提 示 指 令",
}
"""Words in the names of columns, by the part that they stand for; the first that fits counts."""


def not_this(what: str, more: Iterable[str], data: Data) -> Unusable:
    """Say that a row holds more than a shape, with the columns and how to name their parts."""
    names = ", ".join(repr(name) for name in more)
    return Unusable(
        "unknown_format",
        f"{what}: {names} would not be used; the row has {listed(data)}",
        columns_advice(data) or "name the format with --format",
    )


def left_out_of_question(names: Iterable[str], data: Data, format: str) -> Unusable | None:
    """Return why a row cannot be read without columns that its question is about."""
    name = next((name for name in names if LOOKS_LIKE_CONTEXT.fullmatch(name)), None)
    if name is None:
        return None
    use = "join it into the question as text"
    if isinstance(data.get(name), str) and "input" not in data:
        use = f"to add it to the question, --columns {shlex.quote(f'input={name}')}"
    return Unusable(
        "not_used",
        f"{name!r} seems to be a part of the question, and would not be used",
        f"{use}; to read the rows without it, --format {format}",
    )


def columns_advice(data: Data, *, ranked: bool = True, text: bool = False) -> str:
    """Return an option to paste that names the parts of a row; empty if it has no text.

    Args:
        data: The row.
        ranked: Whether its answers may be the sides of a pair.
        text: Whether its longest text is wanted, to continue from.
    """
    parts = suggested(data)
    if text and parts:
        held = [place for place in parts.values() if isinstance(data.get(place), str)]
        parts = {"text": max(held, key=lambda place: len(data[place]))} if held else parts
    if not ranked and "chosen" in parts:
        parts = {"prompt": parts["prompt"], "completion": parts["chosen"]}
    if not parts:
        return ""
    words = ",".join(f"{part}={column}" for part, column in parts.items())
    guess = "chosen" in parts and hint(parts["chosen"]) != "chosen"
    better = " if the first answer is the better one" if guess else ""
    first, _, place = parts.get("completion", "").rpartition(".")
    if place == "0" and len(data.get(first, ())) > 1:
        better = f" if the answer is the first in {first!r}"
    return f"name the parts, as in --columns {shlex.quote(words)}{better}"


def is_label(name: str, value: object) -> bool:
    """Whether a column says if an answer is good: by its name, and a value that is one of two."""
    if not isinstance(value, str | int | float) or hint(name) not in ("label", "chosen"):
        return False
    return str(value).strip().lower() in TRUE | FALSE


def is_score(name: str, value: object) -> bool:
    """Whether a column says how good or how important an answer is: by its name, and numbers."""
    if isinstance(value, list | dict) and value:
        held = value if isinstance(value, list) else list(value.values())
        return isinstance(held[0], int | float) and is_scored(name)
    return isinstance(value, int | float) and is_scored(name)


@functools.lru_cache(maxsize=1000)
def is_scored(name: str) -> bool:
    """Whether the name of a column says that its numbers are scores."""
    return SCORED.fullmatch(name) is not None


def suggested(data: Data) -> dict[str, str]:
    """Guess the columns, or paths into them, of the parts of a row by their names and order."""
    label = next((name for name, value in data.items() if is_label(name, value)), None)
    found = _guessed({name: value for name, value in data.items() if name != label})
    return {**found, "label": label} if label and "completion" in found else found


def _guessed(data: Data) -> dict[str, str]:
    named = {place: hint(place) for place in _places(data) if not re.search("[,=]", place)}
    about = {place for place in named if ABOUT.fullmatch(place)}
    # names about a row count only if there is nothing else: `source` and `target` of a translation
    places = {place: part for place, part in named.items() if place not in about}
    places = named if len(places) < 2 else places
    if not places:
        return {}
    turns = next((place for place in places if _holds_turns(data.get(place))), None)
    if turns is not None and data[turns][-1].get("role", data[turns][-1].get("from")) in _ANSWERING:
        rejected = next((p for p, part in places.items() if part == "rejected"), None)
        whole = {"messages": turns}
        return whole if rejected is None else {**whole, "rejected_messages": rejected}
    left = list(places)
    asked = [p for p in left if places[p] == "prompt"]
    # what is joined into a prompt anyway is not the question itself
    asked.sort(key=lambda place: place in READ_INTO_PROMPT)
    prompt = turns or next(iter(asked), None)
    prompt = prompt or next((p for p in left if places[p] is None), left[0])
    left.remove(prompt)
    sides = {
        side: next((p for p in left if places[p] == side), None) for side in ("chosen", "rejected")
    }
    several = [p for p in left if places[p] == "completion"]
    if len(several) > 1 and sides["rejected"] is None:  # a column `winner` names one of them
        sides["chosen"] = None
    rest = [p for p in left if p not in sides.values()]
    rest.sort(key=lambda place: places[place] != "completion")  # stable: then in their order
    answers = [p for p in rest if places[p] == "completion"]
    if any(sides.values()) or len(answers) > 1:
        sides = {side: place or (rest.pop(0) if rest else None) for side, place in sides.items()}
    found = {side: place for side, place in sides.items() if place is not None}
    if len(found) == 1:
        found = {"completion": next(iter(found.values()))}
    elif not found and rest:
        found = {"completion": rest[0]}
    return {"prompt": prompt, **found}


_ANSWERING = ("assistant", "gpt", "model", "bot", "chatgpt")


def _holds_turns(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, dict) for turn in value) and is_turn(value[0])


def _places(data: Data) -> Iterator[str]:
    """Yield the columns of a row that hold text or turns, and paths to text inside others."""
    for name, value in data.items():
        if name in (*SYSTEM, "history"):
            continue
        if isinstance(value, str):
            if value.strip():
                yield name
        elif _holds_turns(value):
            yield name
        else:
            yield from _inside(name, value, 3)


def _inside(path: str, value: object, depth: int) -> Iterator[str]:
    members: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value[:4])
    for key, held in members:
        if isinstance(key, str) and ABOUT.fullmatch(key):
            continue
        if isinstance(held, str) and held.strip():
            yield f"{path}.{key}"
        elif depth > 1:
            yield from _inside(f"{path}.{key}", held, depth - 1)


@functools.lru_cache(maxsize=1000)
def hint(name: str) -> str | None:
    """Return the part that a name hints at: chosen, rejected, completion or prompt."""
    # the innermost name of a path says the most, unless it only says that it is text
    pieces = name.split(".")
    for piece in reversed([one for one in pieces if one not in _NEUTRAL] or pieces):
        words = {word.lower() for word in _WORDS.findall(piece)}
        words |= {word.removesuffix("s") for word in words}
        for part, hints in _HINTS.items():
            if not words.isdisjoint(hints.split()):
                return part
    return None


def is_turn(turn: Mapping[str, Any]) -> bool:
    """Whether an object is a turn of a conversation."""
    return "role" in turn or "from" in turn
