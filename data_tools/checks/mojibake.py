"""Finds text that was decoded with the wrong encoding: a hit is one that decodes to text again."""

import itertools
import re
from collections.abc import Iterator

TWO_ODD = re.compile("[\u0080-\u00ff\u0152-\u0178\u2018-\u2122]{2}")
"""What bytes of UTF-8 become in an encoding of one byte per character; other text has few of it."""
ONE_BYTE = re.compile("[\u00a1-\u00fe]{6,200}")
"""A run that may be GBK read as Latin-1: `ÄãºÃ` for 你好."""
RARE = re.compile("[涓锛鐨殑紝銆浠鍙鏈浣鍏鎴鍒鏄槸澶瀹鐢璇鍜鍦閫鍟]")
"""Characters that are rare in Chinese, and frequent in its UTF-8 read as GBK."""
FREQUENT = frozenset(
    "的一是不了在人有我他这个们中来上大为和国到以说时要就出会可也你对生能而子好，。"
)
LOST = "锟斤拷"
"""U+FFFD twice, written as UTF-8 and read as GBK."""
AROUND = 60
MOST_TRIED = 500


def looks_like_mojibake(text: str) -> bool:
    """Whether a text holds UTF-8 read as Latin-1, Windows-1252 or GBK, or GBK read as Latin-1."""
    if text.isascii():
        return False
    return (
        LOST in text
        or any(map(_is_utf_8_as_gbk, _around(RARE, text)))
        or any(map(_is_utf_8_as_one_byte, _around(TWO_ODD, text)))
        or any(map(_is_gbk_as_one_byte, ONE_BYTE.findall(text)[:MOST_TRIED]))
    )


def _around(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """Yield the places with a match, each with the text around it."""
    end = 0
    for match in itertools.islice(pattern.finditer(text), MOST_TRIED):
        if match.start() >= end:
            end = match.end() + AROUND
            yield text[max(0, match.start() - AROUND) : end]


def _is_utf_8_as_one_byte(place: str) -> bool:
    from ftfy import fix_encoding

    # ftfy calls an accent before a closing quotation mark bad too, which decodes to nothing else;
    # a line has only characters of the wrong encoding, those around it may have others
    return any(fix_encoding(line) != line for line in place.split("\n"))


def _is_gbk_as_one_byte(run: str) -> bool:
    """Whether a run is Chinese in GBK: a frequent character among three different ones."""
    try:
        read = run[: len(run) // 2 * 2].encode("latin-1").decode("gb2312")
    except UnicodeDecodeError:
        return False
    return len(set(read)) >= 3 and not FREQUENT.isdisjoint(read)


def _is_utf_8_as_gbk(place: str) -> bool:
    """Whether most bytes of a run in GBK are Chinese in UTF-8; some were lost in decoding."""
    for run in re.findall("[^\x00-\x7f]{3,}", place):
        read = run.encode("gb18030", "ignore").decode("utf-8", "ignore")
        chinese = sum("一" <= letter <= "龥" or letter in "，。：；、" for letter in read)
        if chinese >= 2 and 3 * chinese >= len(run):  # two characters for three bytes
            return True
    return False
