"""Repairs of text: each is an option of its own and is counted; none happens by itself."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from data_tools.formats import Adapter, is_sentinel

ALPACA_FAMILY = {"alpaca", "alpaca-ranked", "alpaca-ranking", "kto-alpaca", "belle"}


@dataclass
class Repairs:
    """The repairs that the user asks for; calling it repairs a row before it is adapted.

    Attributes:
        strip_sentinels: Empty an alpaca `input` that only says that there is none.
        fix_mojibake: Repair text that was decoded with the wrong encoding, by ftfy.
        decode_backslash_n: Turn a literal backslash-n into a newline, only in huozi rows.
        counts: Rows that were changed, by repair.
    """

    strip_sentinels: bool = False
    fix_mojibake: bool = False
    decode_backslash_n: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return self.strip_sentinels or self.fix_mojibake or self.decode_backslash_n

    def __call__(self, data: dict[str, Any], adapter: Adapter) -> dict[str, Any]:
        """Return a repaired copy of a row, or the row itself if no repair changes it."""
        if (
            self.strip_sentinels
            and adapter.name in ALPACA_FAMILY
            and is_sentinel(data.get("input"))
        ):
            data = {**data, "input": ""}
            self.counts["strip_sentinels"] += 1
        if self.decode_backslash_n and adapter.name == "huozi":
            data = self._repaired(data, decoded, "decode_backslash_n")
        if self.fix_mojibake:
            data = self._repaired(data, _fix_encoding, "fix_mojibake")
        return data

    def _repaired(
        self, data: dict[str, Any], repair: Callable[[str], str], name: str
    ) -> dict[str, Any]:
        repaired: dict[str, Any] = _mapped(data, repair)
        if repaired == data:
            return data
        self.counts[name] += 1
        return repaired


def decoded(value: str) -> str:
    """Turn literal backslash-n into newlines, except in text with real ones, code or formulas."""
    # in code and formulas a backslash and an n is what the author wrote, as in `\nabla`
    if "\\n" not in value or "\n" in value or "```" in value or "$" in value:
        return value
    return re.sub(r"\\n(?![a-z])", "\n", value)


def _fix_encoding(value: str) -> str:
    """Repair mojibake alone: the other changes of ftfy would rewrite two thirds of Chinese rows."""
    import ftfy

    repaired: str = ftfy.fix_text(
        value,
        fix_character_width=False,
        uncurl_quotes=False,
        unescape_html=False,
        normalization=None,
        fix_latin_ligatures=False,
        fix_line_breaks=False,
        remove_terminal_escapes=False,
        remove_control_chars=False,
        fix_surrogates=False,
    )
    return repaired


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy in which a function has changed every string, but no key."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(member, change) for member in value]
    if isinstance(value, dict):
        return {key: _mapped(member, change) for key, member in value.items()}
    return value
