"""Finds the language of a text by the scripts of its letters, without a model."""

import re

_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]+")
_HANGUL = re.compile("[\uac00-\ud7a3]+")
_HAN = re.compile("[\u4e00-\u9fff]+")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]{2,}|\\b[aAI]\\b")
_OTHERS = re.compile("[\u0370-\u1fff]+")
"""Words of other scripts, from Greek and Cyrillic to those of India."""
FEWEST, FEWEST_LATIN = 2, 3
NO_WORDS = re.compile(
    r"```.*?(?:```|\Z)"  # code, also if its end was cut off
    r"|`[^`\n]{1,200}`"
    r"|\$[^$\n]{1,200}\$"
    r"|\bhttps?://[^\s\u4e00-\u9fff]{1,2000}"
    r"|\"[^\"\n]{1,40}\"\s{0,3}:"  # keys of JSON
    r"|<[^<>\n]{1,200}>"
    r"|^(?: {4}|\t)[^\n]{0,2000}"
    # lines of code: they begin with a word of it, assign or call something, or end in its marks
    r"|^[ \t]{0,40}(?:@|#|//|(?:import|from|def|class|return|const|let|var|print|else|elif)\b)"
    r"[^\n]{0,2000}"
    r"|^[^\n]{0,2000}[;{}][ \t\r]{0,9}$"
    r"|^(?=[^\n]{0,400}\w\()[^\n]{0,2000}[)\]]:?[ \t\r]{0,9}$"
    r"|^[^\n]{0,200} [-+*/]?= [^\n]{0,2000}"
    r"|\\[A-Za-z]{1,20}"  # commands of LaTeX
    r"|\b[A-Za-z0-9]{1,40}(?:[_./][A-Za-z0-9]{1,40}){1,9}|\b\w{1,40}\(",  # names in code
    re.DOTALL | re.MULTILINE,
)

TRADITIONAL = frozenset(
    "們這個為說時來會對國學過還後經發開關長門問間東車見話語請謝讓變體點電腦網頁麼樣應該"
)
SIMPLIFIED = frozenset(
    "们这个为说时来会对国学过还后经发开关长门问间东车见话语请谢让变体点电脑网页么样应该"
)
_ONLY_TRADITIONAL = TRADITIONAL - SIMPLIFIED
_TELLING = re.compile(f"[{''.join(sorted(TRADITIONAL ^ SIMPLIFIED))}]")


def language(text: str) -> str:
    """Return `zh`, `en`, `ja`, `ko`, `mixed` or `other`, by the words of a text.

    Code, formulas, addresses, markup and the keys of JSON are no words of a language. A character
    of Chinese counts as a word, as a run of Latin letters does: half of the words decide; between
    15 % and half of them Chinese is `mixed`. Fewer than two words, or three of Latin letters, are
    `other`, as other scripts are.
    """
    words = NO_WORDS.sub(" ", text)
    latin = sum(1 for _ in _LATIN.finditer(words))
    if words.isascii():
        return "en" if latin >= FEWEST_LATIN else "other"
    kana, hangul, han = (_count(letters, words) for letters in (_KANA, _HANGUL, _HAN))
    total = latin + kana + hangul + han
    if total < FEWEST or sum(1 for _ in _OTHERS.finditer(words)) > total:
        return "other"
    if kana >= 0.05 * total and kana >= FEWEST:
        return "ja"
    if hangul >= 0.5 * total:
        return "ko"
    if han >= 0.5 * total:
        return "zh"
    if han >= 0.15 * total:
        return "mixed"
    return "en" if latin >= FEWEST_LATIN else "other"


def differ(one: str, other: str) -> bool:
    """Whether two languages are known, and not the same."""
    return one != other and {one, other}.isdisjoint({"mixed", "other"})


def chinese_script(text: str) -> str:
    """Return `traditional`, `simplified` or nothing, by characters that only one of them has."""
    letters = set(_TELLING.findall(text))
    traditional = len(letters & _ONLY_TRADITIONAL)
    simplified = len(letters) - traditional
    if traditional > 2 * simplified:
        return "traditional"
    return "simplified" if simplified > 2 * traditional else ""


def _count(letters: re.Pattern[str], text: str) -> int:
    """Return how many characters a pattern of runs matches."""
    return sum(map(len, letters.findall(text)))
