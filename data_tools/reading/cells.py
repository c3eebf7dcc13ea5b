"""Reads messages that a table can only hold as text: as JSON, or as Python prints a list."""

import ast
import re
from typing import Any

import orjson

from data_tools.reading.rows import Fault

TURN_KEYS = ({"role", "content"}, {"from", "value"})
"""Keys that make an object a turn of a conversation."""
LOOKS = re.compile(
    r"""(?:array\()?\s*(?:\[\s*)?\{\s*(['"])(?:role|content|from|value)\1\s*:\s*(?:['"]|None|null)"""
)
"""How the text of messages begins; other text in brackets is an answer like any other."""
NUMPY = Fault(
    "the text of a NumPy array, which cannot be read back",
    "write the table as JSON lines: "
    "frame.to_json('rows.jsonl', orient='records', lines=True, force_ascii=False)",
)


def turns_of_cell(cell: str) -> Any:
    """Return the messages in a cell, a Fault if they cannot be read, or None for any other text.

    A list of turns is written so by `json.dumps`, and as Python's text by pandas.
    """
    if not LOOKS.match(cell):
        return None
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return NUMPY if cell.startswith("array(") or "}\n" in cell else None
    return value if is_turns(value) else None


def with_faults(row: dict[str, Any]) -> dict[str, Any] | Fault:
    """Return a row, or the Fault of its first cell that cannot be read."""
    for name, cell in row.items():
        if isinstance(cell, Fault):
            return cell._replace(reason=f"{name!r}: {cell.reason}")
    return row


def is_turns(value: object) -> bool:
    """Whether a value is a turn of a conversation, or a list of them."""
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(
        isinstance(turn, dict) and any(keys <= turn.keys() for keys in TURN_KEYS) for turn in turns
    )
