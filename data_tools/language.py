"""Which language a text is in, by the scripts of its letters; no model, no guess."""

import re

_SPACE = re.compile(r"\s")
_HAN = re.compile("[\u4e00-\u9fff]")
_LATIN = re.compile("[A-Za-z]")

TRADITIONAL = frozenset(
    "們這個為說時來會對國學過還後經發開關長門問間東車見話語請謝讓變體點電腦網頁麼樣應該"
)
SIMPLIFIED = frozenset(
    "们这个为说时来会对国学过还后经发开关长门问间东车见话语请谢让变体点电脑网页么样应该"
)
_ONLY_TRADITIONAL = TRADITIONAL - SIMPLIFIED
_ONLY_SIMPLIFIED = SIMPLIFIED - TRADITIONAL


def language(text: str) -> str:
    """`zh`, `en`, `mixed` or `other`, by shares of the characters that are not space.

    zh from 30 % Han; en from half Latin with under 5 % Han; mixed from 5 % Han; else other, which
    numbers and code are too.
    """
    size = len(_SPACE.sub("", text))
    if not size:
        return "other"
    han = len(_HAN.findall(text)) / size
    if han >= 0.3:
        return "zh"
    if han >= 0.05:
        return "mixed"
    return "en" if len(_LATIN.findall(text)) / size >= 0.5 else "other"


def chinese_script(text: str) -> str:
    """`traditional`, `simplified` or nothing, by characters that only one of them uses."""
    letters = set(text)
    traditional = len(letters & _ONLY_TRADITIONAL)
    simplified = len(letters & _ONLY_SIMPLIFIED)
    if traditional > 2 * simplified:
        return "traditional"
    return "simplified" if simplified > 2 * traditional else ""
