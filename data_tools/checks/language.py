"""Finds the language of a text by the scripts of its letters, without a model."""

import re

_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]+")
_HANGUL = re.compile("[\uac00-\ud7a3]+")
_HAN = re.compile("[\u4e00-\u9fff]+")
_LATIN = re.compile("[A-Za-z]+")

TRADITIONAL = frozenset(
    "們這個為說時來會對國學過還後經發開關長門問間東車見話語請謝讓變體點電腦網頁麼樣應該"
)
SIMPLIFIED = frozenset(
    "们这个为说时来会对国学过还后经发开关长门问间东车见话语请谢让变体点电脑网页么样应该"
)
_ONLY_TRADITIONAL = TRADITIONAL - SIMPLIFIED
_TELLING = re.compile(f"[{''.join(sorted(TRADITIONAL ^ SIMPLIFIED))}]")


def language(text: str) -> str:
    """Return `zh`, `ja`, `ko`, `en`, `mixed` or `other`, by shares of the visible characters.

    5 % kana are `ja`, 30 % Hangul `ko`, 30 % Han `zh`, 5 % Han `mixed`, half Latin `en`, in this
    order; everything else is `other`, such as numbers, code and further scripts.
    """
    size = sum(map(len, text.split()))
    if not size:
        return "other"
    han = 0.0
    if not text.isascii():
        if _KANA.search(text) and _share(_KANA, text, size) >= 0.05:
            return "ja"
        if _HANGUL.search(text) and _share(_HANGUL, text, size) >= 0.3:
            return "ko"
        han = _share(_HAN, text, size)
    if han >= 0.3:
        return "zh"
    if han >= 0.05:
        return "mixed"
    return "en" if _share(_LATIN, text, size) >= 0.5 else "other"


def chinese_script(text: str) -> str:
    """Return `traditional`, `simplified` or nothing, by characters that only one of them has."""
    letters = set(_TELLING.findall(text))
    traditional = len(letters & _ONLY_TRADITIONAL)
    simplified = len(letters) - traditional
    if traditional > 2 * simplified:
        return "traditional"
    return "simplified" if simplified > 2 * traditional else ""


def _share(letters: re.Pattern[str], text: str, size: int) -> float:
    """Return the share of the characters that a pattern of runs matches."""
    return sum(map(len, letters.findall(text))) / size
