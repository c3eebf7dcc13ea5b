"""Checks one text by itself: encoding, markup, personal data, secrets."""

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator

from data_tools.checks import Finding, visible
from data_tools.checks.mojibake import looks_like_mojibake
from data_tools.secret_patterns import SECRET, SECRET_CUES

EMOJI = (
    "\u200d\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\ufe0f"
    "\U0001f000-\U0001faff"
)
JOINED = "\u0590-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\ufb1d-\ufdff\ufe70-\ufefc"
"""Scripts that need joiners or marks of direction, such as Arabic and those of India."""
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Scripts without spaces, such as Thai, in which a space of no width may divide words."""
HIDDEN = (
    "[\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\u00ad\u202a-\u202e\u180e\u115f\u1160\u3164\uffa0"
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    f"|(?<![{UNSPACED}])\u200b"
    # a joiner inside an emoji, or next to a letter of such a script, is part of the text
    f"|(?<![{EMOJI}{JOINED}])[\u200c-\u200f\u2066-\u2069](?![{JOINED}])"
    f"|(?<=[{EMOJI}])\u200d(?![{EMOJI}])"
    # the letters of a flag after its emoji, such as those of England and Wales
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
)
ISSUED = re.compile(
    r"4\d{15}(?:\d{3})?|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11,16}|35\d{14,17}|5\d{15,18}|6\d{15,18}"
)
"""The numbers of Visa, American Express, Diners Club, JCB, Mastercard, Maestro and UnionPay."""
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)

PATTERNS: dict[str, re.Pattern[str]] = {
    "role_marker_in_body": re.compile(r"(?:^|\s)(?:Human|Assistant):"),
    "special_token": re.compile(
        r"<\|[a-z0-9_]+\|>|<｜[^<>｜\s]{1,40}｜>|\[/?INST\]|<</?SYS>>|\[(?:EOS|BOS|PAD|UNK)\]|</s>|<extra_id_\d+>"
        r"|<(?:bos|eos|start_of_turn|end_of_turn)>"
    ),
    "literal_backslash_n": re.compile(r"\\n"),
    "replacement_char": re.compile("\ufffd"),
    "zero_width_or_control": re.compile(HIDDEN),
    "html": re.compile(
        r"</?(?:p|br|div|span|a|b|i|u|em|strong|h[1-6]|ul|ol|li|table|tr|td|th|img|pre|code)"
        r"(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,5});",
        re.IGNORECASE,
    ),
    # bounded, and only from the start of a name: the time grows with the text, not with its square
    "pii_email": re.compile(
        r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
        r"(?![A-Za-z0-9-])"
    ),
    "pii_phone_cn": re.compile(r"(?<![\d.])(?:\+?86[- ]?)?1[3-9]\d{9}(?!\.?\d)"),
    "pii_phone_us": re.compile(
        r"(?<![\d-])(?:\+?1[-. ]?)?(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\d-])"
    ),
    "pii_ssn_like": re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"),
    "pii_id_cn": re.compile(r"(?<!\d)[1-9]\d{5}(?:19|20)\d{9}[\dXx](?!\d)"),
    "pii_card": re.compile(
        r"(?<![\d.])(?:[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}|3[47]\d{2}([ -])\d{6}\2\d{5})"
        r"(?!\.?\d)"
    ),
    "pii_ipv4": re.compile(
        r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\.?\d)"
    ),
    "secret": SECRET,
}
CUES = (
    ("Human:", "role_marker_in_body"),
    ("Assistant:", "role_marker_in_body"),
    ("<", "special_token"),
    ("[", "special_token"),
    ("\\n", "literal_backslash_n"),
    ("\ufffd", "replacement_char"),
    ("<", "html"),
    ("&", "html"),
    ("@", "pii_email"),
    *((cue, "secret") for cue in SECRET_CUES),
)
"""A pattern is only searched if one of its cues is in the text, which is far faster to find."""
ALWAYS = frozenset({"zero_width_or_control"})
NUMBERS = re.compile(r"\d[\d.() -]{5,}[\dXx]")
"""The cue of all patterns of numbers."""


def text_findings(text: str, part: str) -> Iterator[Finding]:
    """Yield each kind of flaw in a text once, with its first occurrence."""
    for code in _likely(text):
        prove = PROOFS.get(code)
        # markup in code is what the code is about
        searched = CODE.sub(_blanked, text) if code in OUTSIDE_CODE and "`" in text else text
        for match in itertools.islice(PATTERNS[code].finditer(searched), MOST_TRIED):
            # a number with a wrong checksum is no card, a later one may be
            if (prove is None or prove(match[0])) and _in_context(code, searched, match):
                yield Finding(code, part, shown(code, text, match))
                break
    if looks_like_mojibake(text):
        yield Finding("mojibake", part)


def _likely(text: str) -> list[str]:
    """Return the codes whose cues are in a text."""
    cued = {code for cue, code in CUES if cue in text}
    numeric = NUMBERS.search(text) is not None
    return [
        code for code in PATTERNS if code in cued or code in ALWAYS or (numeric and code in NUMERIC)
    ]


def shown(code: str, text: str, match: re.Match[str]) -> str:
    """Return an occurrence as reports print it: personal data and secrets are masked."""
    if code.startswith("pii") or code == "secret":
        return re.sub(r"[^\W_]", "•", match[0])[:24]
    around = text[max(0, match.start() - 12) : match.end() + 12]
    return redacted(ascii(around)[1:-1] if code == "zero_width_or_control" else around)


def redacted(text: str) -> str:
    """Return a text on one line, as reports print it: personal data and secrets are masked."""
    for code in _likely(text):
        if code.startswith("pii") or code == "secret":
            text = PATTERNS[code].sub("•••", text)
    return visible(" ".join(text.split()))


def _luhn(found: str) -> bool:
    digits = [int(d) for d in found if d.isdigit()]
    # few different digits are typical of examples such as 4444 4444 4444 4444
    issued = ISSUED.fullmatch("".join(map(str, digits))) is not None
    if not issued or len(set(digits)) < 4:
        return False
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _identity(found: str) -> bool:
    month, day = int(found[10:12]), int(found[12:14])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return False
    total = sum(int(d) * weight for d, weight in zip(found, ID_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == found[-1].upper()


PLACEHOLDERS = re.compile(
    r"(?i)^(?:git|user(?:name)?|name|e?mail|your[\w.-]*|my[._-]?e?mail|someone|somebody"
    r"|(?:do[._-]?not|no)[._-]?reply|x{2,}|abc|foo|test)@|^[\w.]@\w{1,3}\."
    r"|@(?:[\w-]+\.)*(?:example|domain|company|your[\w-]*|mydomain|website|x{2,}|abc|foo|bar|test)"
    r"\.[a-z.]+$"
    r"|\.(?:example|invalid|localhost|local|test|png|jpe?g|gif|svg|webp|css|js|py|md)$"
)
"""Addresses that documents use for nobody in particular, and names of files."""
PUBLIC_RESOLVERS = frozenset(
    {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "114.114.114.114"}
)


def _address(found: str) -> bool:
    return PLACEHOLDERS.search(found) is None


def _ssn(found: str) -> bool:
    """Whether a number can have been issued."""
    area, group, serial = found.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _public(found: str) -> bool:
    """Whether an address belongs to a machine on the internet; versions have small numbers."""
    numbers = [int(number) for number in found.split(".")]
    return (
        ipaddress.ip_address(found).is_global
        and found not in PUBLIC_RESOLVERS
        and max(numbers) > VERSION
    )


VERSION = 30
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`", re.DOTALL)
OUTSIDE_CODE = frozenset({"html", "literal_backslash_n"})
ARITHMETIC = re.compile(r"[-+*/×÷=^]\s{0,2}\Z")
ARITHMETIC_AFTER = re.compile(r"\s{0,2}[+*/×÷=^]")
LATEX = re.compile(
    r"(?:abla|atural|eq?|eg|earrow|ewcommand|ewline|exists|i|leq|geq|mid|ode|oindent|olimits|onumber"
    r"|ormal\w{0,12}|ot\w{0,12}|otin|u|um|subset\w{0,2}|ew(?:page|theorem|environment|counter|length"
    r"|column)|ocite|obreak|opagebreak|olinebreak|ameref|oalign|sim|less|gtr|parallel|warrow"
    r"|[lr]eqslant|vdash|cong)(?![A-Za-z])"
)
"""What follows `\\n` in the names of LaTeX commands."""
IN_QUOTES = re.compile(r"(?:^|[^\w'])[fFrRbBuU]{0,2}'[^']*\Z")
"""A string that is open, with the letters that Python writes before it."""
PATH = re.compile(r"(?:^|[^A-Za-z])[A-Za-z]:\\(?=(?:\S*\\)?[^n\s\\])")
"""A path of Windows; what follows `Q:` and `A:` at the start of lines has no other backslash."""
WORD_BEFORE = re.compile(r"\S*\Z")
NEWLINE = re.compile(
    r"(?i)换行|換行|回车|转义|轉義|\bnew ?line|\bline ?(?:break|feed)|\bescape(?:d| (?:seq|char))"
)
NAMED_BY = 40
"""Characters around `\\n` in which a text that is about it names it."""
MOST_TRIED = 5000
"""Occurrences in a text that are looked at until one is proved."""
NEAR_BY = 200
"""Characters before an occurrence that may show that it is inside a string or a formula."""


def _blanked(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _in_context(code: str, text: str, match: re.Match[str]) -> bool:
    """Whether an occurrence means what its code says, by the text around it."""
    start, end = match.span()
    before = text[max(0, start - NEAR_BY) : start]
    if code in ("pii_card", "pii_phone_cn"):
        return not (ARITHMETIC.search(before) or ARITHMETIC_AFTER.match(text, end))
    if code != "literal_backslash_n":
        return True
    return not _is_code(before.rsplit("\n", 1)[-1], text[end : end + NEAR_BY].split("\n", 1)[0])


def _is_code(before: str, after: str) -> bool:
    r"""Whether `\n` between two parts of a line is part of code, a formula, a path or its name."""
    in_string = before.count('"') % 2 == 1 or after.count('"') % 2 == 1 or IN_QUOTES.search(before)
    ended = before.endswith((".", "?", "!", "。", "？", "！", ":", "："))
    is_command = LATEX.match(after) is not None and not ended
    named = before[-1:].isspace() and after[:1].isspace()  # "the \n at the end"
    about_it = NEWLINE.search(before[-NAMED_BY:]) or NEWLINE.search(after[:NAMED_BY])
    in_pattern = before.endswith(("\\r", "\\r?", "[", "[^", "/"))
    in_path = PATH.search(WORD_BEFORE.findall(before)[0] + f"\\n{after}".split()[0])
    return bool(in_string or is_command or named or about_it or in_pattern or in_path)


def _token(found: str) -> bool:
    """Whether a token is none that documents write in place of one: `sk-xxxxxxxxxxxxxxxx`."""
    if found.startswith("-----"):
        return True
    return len(set(found[-16:].casefold())) > FEW_CHARACTERS and not NO_TOKEN.search(found)


FEW_CHARACTERS = 2
NO_TOKEN = re.compile(r"(?i)your|here\b|placeholder|token|secret|api[_-]?key|xxxx")
PROOFS: dict[str, Callable[[str], bool]] = {
    "secret": _token,
    "pii_card": _luhn,
    "pii_id_cn": _identity,
    "pii_email": _address,
    "pii_ssn_like": _ssn,
    "pii_ipv4": _public,
}
NUMERIC = frozenset(code for code in PATTERNS if code.startswith("pii") and code != "pii_email")
