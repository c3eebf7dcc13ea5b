"""Repairs of text, each asked for by name and counted; nothing is mended unasked."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from data_tools.formats import Adapter, is_sentinel

ALPACA_FAMILY = {"alpaca", "alpaca-ranked", "alpaca-ranking", "kto-alpaca", "belle"}


@dataclass
class Repairs:
    """The repairs asked for, applied to a row before it is adapted, and how many rows each changed.

    Attributes:
        strip_sentinels: Empty the alpaca `input` that only says there is none.
        fix_mojibake: Undo text decoded with the wrong encoding (ftfy, safe for Chinese).
        decode_backslash_n: Turn a literal backslash-n into a newline, in huozi rows only.
        counts: Rows changed, by repair.
    """

    strip_sentinels: bool = False
    fix_mojibake: bool = False
    decode_backslash_n: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return self.strip_sentinels or self.fix_mojibake or self.decode_backslash_n

    def __call__(self, data: dict[str, Any], adapter: Adapter) -> dict[str, Any]:
        """A mended copy of a row, or the row itself where nothing is to mend."""
        if (
            self.strip_sentinels
            and adapter.name in ALPACA_FAMILY
            and is_sentinel(data.get("input"))
        ):
            data = {**data, "input": ""}
            self.counts["strip_sentinels"] += 1
        if self.decode_backslash_n and adapter.name == "huozi":
            data = self._mended(data, decoded, "decode_backslash_n")
        if self.fix_mojibake:
            data = self._mended(data, _fix_encoding, "fix_mojibake")
        return data

    def _mended(
        self, data: dict[str, Any], mend: Callable[[str], str], name: str
    ) -> dict[str, Any]:
        mended: dict[str, Any] = _mapped(data, mend)
        if mended == data:
            return data
        self.counts[name] += 1
        return mended


def decoded(value: str) -> str:
    """Literal backslash-n as newlines, but in no text with real ones, code or formulas."""
    if "\\n" not in value or "\n" in value or "```" in value or "$" in value:
        return value
    return re.sub(r"\\n(?![a-z])", "\n", value)


def _fix_encoding(value: str) -> str:
    """Mojibake only: ftfy's other changes rewrite two thirds of Chinese rows."""
    import ftfy

    mended: str = ftfy.fix_text(
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
    return mended


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A copy with every string inside changed, keys left as they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(member, change) for member in value]
    if isinstance(value, dict):
        return {key: _mapped(member, change) for key, member in value.items()}
    return value
