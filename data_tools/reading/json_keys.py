"""Finds keys that appear twice in an object; parsers silently keep the last."""

import json
import re
from typing import Any

from data_tools.reading.rows import Fault

KEY_END = re.compile(rb'"\s*:()')
"""Has an empty group, so that `findall` counts matches without copying them."""
ESCAPED_END = re.compile(rb'\\"\s*:')
BACKSLASH = ord("\\")
TOO_DEEP = Fault("nested too deep to be checked")


def _any_repeated(text: bytes, rows: list[Any]) -> bool:
    """Whether any row, or an object inside one, has a key twice.

    Each key in the text ends in a quote before a colon. If there are only as many of those as
    parsed keys, then no key was lost. Escaped quotes inside strings can make the number larger,
    never smaller, so they are counted only if the numbers differ.
    """
    ends = len(KEY_END.findall(text))
    flat = sum(len(row) for row in rows if type(row) is dict)
    if ends == flat:
        return False
    ends -= sum(_is_escaped(text, m.start() + 1) for m in ESCAPED_END.finditer(text))
    return ends != flat and ends != _count_keys(rows)


def _is_escaped(text: bytes, at: int) -> bool:
    """Whether an odd number of backslashes comes before a place."""
    slashes = 0
    while text[at - 1 - slashes] == BACKSLASH:
        slashes += 1
    return slashes % 2 == 1


def repeated_keys(text: bytes, rows: list[Any]) -> dict[int, Fault]:
    """Return a Fault, by index, for each row with a key twice; parsers silently keep the last."""
    if not _any_repeated(text, rows):
        return {}
    try:
        members = json.loads(text, object_pairs_hook=_Pairs, parse_int=float)
    except RecursionError:
        return dict.fromkeys(range(len(rows)), TOO_DEEP)
    found = enumerate(map(_first_repeated, members if type(members) is list else [members]))
    return {
        i: Fault(f"the key {key!r} appears twice", "keep one of them", code="duplicate_key")
        for i, key in found
        if key is not None
    }


class _Pairs(list[tuple[str, Any]]):
    """An object as a list of its pairs, so that none is lost."""


def _first_repeated(value: Any) -> str | None:
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, _Pairs):
            seen: set[str] = set()
            for key, _ in value:
                if key in seen:
                    return key
                seen.add(key)
            stack.extend(member for _, member in value)
        elif isinstance(value, list):
            stack.extend(value)
    return None


def _count_keys(rows: list[Any]) -> int:
    """Count the keys of all objects, nested ones too."""
    total, stack = 0, [rows]
    while stack:
        for value in stack.pop():
            kind = type(value)
            if kind is dict:
                total += len(value)
                if value:
                    stack.append(value.values())
            elif kind is list:
                stack.append(value)
    return total
