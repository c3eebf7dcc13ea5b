"""Finds the encoding of a text file, and recodes it as UTF-8 for the parsers.

UTF-8 is never guessed away: another encoding is looked for only if the text cannot be UTF-8, and
it is used only if no other reading of the bytes is likely. Everything else is refused, with what
the text would be in each candidate.
"""

import codecs
import io
import re
from pathlib import Path
from typing import IO, Any, NamedTuple

from alignment.errors import ConfigError, DataError


class Encoding(NamedTuple):
    """The encoding of a file.

    Attributes:
        name: Its name in Python.
        why: How it is known; empty for UTF-8, which needs no explanation.
    """

    name: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


UTF_8 = Encoding("utf-8")
BOMS = (
    (codecs.BOM_UTF8, "utf-8", ("utf_8", "utf_8_sig")),
    (codecs.BOM_UTF32_LE, "utf-32", ("utf_32", "utf_32_le")),
    (codecs.BOM_UTF32_BE, "utf-32", ("utf_32", "utf_32_be")),
    (codecs.BOM_UTF16_LE, "utf-16", ("utf_16", "utf_16_le")),
    (codecs.BOM_UTF16_BE, "utf-16", ("utf_16", "utf_16_be")),
)
"""Byte order marks, the encoding of each, and what a user may call it."""
SAMPLE = 1 << 18
"""Bytes that are looked at, from the first one on that is not ASCII."""
ASCII_SCAN = 1 << 26
"""Bytes of pure ASCII after which a file is taken for UTF-8; later damage is reported by row."""
FEW = 2
"""Bytes that are not UTF-8: damage of a row, and too few to say anything about the file."""
TRUSTED = frozenset({"gb18030", "big5", "big5hkscs", "cp950", "cp932", "euc_jp"})
"""Encodings whose text cannot be confused with another one's; all others must be named."""
UNLIKELY = (
    *("utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le", "utf_7"),
    *("utf_8", "utf_8_sig", "johab", "cp1006", "cp864", "cp874"),
)
"""Encodings that charset-normalizer is not asked about: these have signs of their own, or are not
in use."""
COHERENT = 0.1
"""Least share of letters that are typical of a language, as charset-normalizer counts them."""
_PRIVATE = re.compile(r"[\ue000-\uf8ff]")
OF_CHINESE = ("gb18030", "big5")
SHOWN = 4


def find_encoding(stream: IO[bytes], path: Path, forced: str | None) -> Encoding:
    """Return the encoding of a text by its first bytes.

    Args:
        stream: The text from its start.
        path: Its name in messages.
        forced: The encoding that the user has named.

    Raises:
        ConfigError: If a byte order mark contradicts the named encoding.
        DataError: If it is not UTF-8 and several encodings are likely.
    """
    head = stream.read(4)
    for mark, name, spellings in BOMS:
        if head.startswith(mark):
            if forced and _spelt(forced) not in spellings:
                raise ConfigError(
                    f"{path}: the byte order mark says {name}, not {forced}",
                    "leave the encoding out, or name the one of the byte order mark",
                )
            return UTF_8 if name == "utf-8" else Encoding(name, "byte order mark")
    if forced:
        name = _spelt(forced).replace("_", "-")
        return UTF_8 if name in ("utf-8", "utf-8-sig") else Encoding(name, "as asked")
    sample = _sample(head, stream)
    return _wide(sample) or _of_sample(sample, path)


def checked_encoding(name: str) -> str:
    """Return an encoding that a user names, if Python can decode it.

    Raises:
        ConfigError: If there is no such encoding of text.
    """
    try:
        "a".encode(name)
    except (LookupError, UnicodeError) as error:
        raise ConfigError(
            f"encoding {name}: no such encoding of text",
            "for example utf-8, gb18030 (also for GBK and GB2312), big5, utf-16, cp932, cp1252",
        ) from error
    return name


def _spelt(name: str) -> str:
    return codecs.lookup(checked_encoding(name)).name.replace("-", "_")


def _sample(head: bytes, stream: IO[bytes]) -> bytes:
    """Return whole lines of the text, from near the first byte on that is not ASCII."""
    block, seen = head, 0
    while not _telling(block) and seen < ASCII_SCAN:
        seen += len(block)
        block = stream.read(SAMPLE)
        if not block:
            return b""
    block += stream.read(SAMPLE)
    end = block.rfind(b"\n") + 1
    return block[:end] if end and len(block) > SAMPLE else block


def _telling(block: bytes) -> bool:
    return not block.isascii() or b"\0" in block


def _wide(sample: bytes) -> Encoding | None:
    """Return UTF-16 for a text without a mark that begins with an ASCII character in it."""
    if sample.count(0) * 50 < len(sample) or len(sample) < 4:
        return None
    name = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(
        (sample[0] == 0, sample[1] == 0)
    )
    try:
        even = sample[: len(sample) // 2 * 2]
        if name and "\0" not in codecs.getincrementaldecoder(name)().decode(even):
            return Encoding(name, "detected")
    except UnicodeDecodeError:
        pass
    return None


def _of_sample(sample: bytes, path: Path) -> Encoding:
    """Return UTF-8 unless the text cannot be UTF-8, and else what charset-normalizer is sure of.

    Raises:
        DataError: If it is sure of nothing.
    """
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        pass
    else:
        return UTF_8
    decoded = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(sample)
    damaged = sum("\udc80" <= char <= "\udcff" for char in decoded)
    whole = sum(char > "\x7f" for char in decoded) - damaged
    # a text in UTF-8 with some damage is still UTF-8; by chance, bytes of Chinese rarely are
    if damaged <= FEW or whole >= damaged:
        return UTF_8
    from charset_normalizer import from_bytes

    # the names of columns and other ASCII may hide the language of a text, or be needed to see it
    lines = b"".join(line for line in sample.splitlines(keepends=True) if not line.isascii())
    for text in (sample, lines):
        found = list(from_bytes(text, cp_exclusion=list(UNLIKELY)))
        # several names of one text are no doubt
        unlike = [one for one in found[1:] if str(one) != str(found[0])]
        if found and found[0].encoding in TRUSTED and _surely(found[0], unlike):
            return Encoding(found[0].encoding, "detected")
    names = _candidates(lines, [one.encoding for one in found])
    likely = [name for name in names if not _PRIVATE.search(lines.decode(name, "ignore"))]
    # a reading with characters of private use is of another encoding
    if found and likely == [found[0].encoding] and likely[0] in OF_CHINESE:
        return Encoding(likely[0], "detected")
    raise _undecided(lines, names, path)


def _surely(best: Any, others: list[Any]) -> bool:
    """Whether charset-normalizer sees a language in the best reading, and in no other one."""
    return best.coherence >= COHERENT and all(
        best.coherence > one.coherence and best.chaos <= one.chaos for one in others
    )


def _candidates(lines: bytes, found: list[str]) -> list[str]:
    """Return the encodings in which a text can be read, those of Chinese first."""
    readable = []
    for name in dict.fromkeys((*OF_CHINESE, *found)):
        try:
            codecs.getincrementaldecoder(name)().decode(lines)
        except UnicodeDecodeError:
            continue
        readable.append(name)
    return readable[:SHOWN] or ["cp1252"]


def _undecided(lines: bytes, names: list[str], path: Path) -> DataError:
    start = next(i for i, byte in enumerate(lines) if byte > 0x7F)
    readings = (
        f"{name} ({lines[start : start + 24].decode(name, 'replace')[:10]!r})" for name in names
    )
    return DataError(
        f"{path}: not UTF-8, and its encoding is not certain: {' or '.join(readings)}",
        f"choose the reading that is right: --encoding {names[0]} (in a recipe data_encoding: "
        f"{names[0]})",
    )


class Recoded(io.RawIOBase):
    """A stream of any encoding as UTF-8; what cannot be decoded becomes the byte 0xff.

    No text in UTF-8 has that byte, so that the parsers report the place of the damage.
    """

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._waiting = b""
        self._ended = False

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with UTF-8."""
        while not self._waiting and not self._ended:
            block = self._stream.read(1 << 16)
            self._ended = not block
            text = self._decoder.decode(block, final=self._ended)
            self._waiting = text.encode("utf-8", "replace").replace(REPLACEMENT, b"\xff")
        size = min(len(buffer), len(self._waiting))
        buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        return size

    def close(self) -> None:
        """Close the stream below."""
        super().close()
        self._stream.close()


REPLACEMENT = "\ufffd".encode()
