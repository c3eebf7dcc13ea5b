"""Checks one text by itself: encoding, markup, personal data, secrets."""

import re
from collections.abc import Callable, Iterator

from data_tools.checks import Finding

HIDDEN = "[\u200b-\u200f\u2060\ufeff\u00ad\u202a-\u202e\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
CARD_LENGTHS = range(13, 20)
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
    "pii_email": re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"),
    "pii_phone_cn": re.compile(r"(?<![\d.])(?:\+?86[- ]?)?1[3-9]\d{9}(?![\d.])"),
    "pii_phone_us": re.compile(
        r"(?<![\d-])(?:\+?1[-. ]?)?(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\d-])"
    ),
    "pii_ssn_like": re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"),
    "pii_id_cn": re.compile(r"(?<!\d)[1-9]\d{5}(?:19|20)\d{9}[\dXx](?!\d)"),
    "pii_card": re.compile(r"(?<![\d.])[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\d.])"),
    "pii_ipv4": re.compile(
        r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])"
    ),
    "secret": re.compile(
        r"\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{50,}"
        r"|\bsk-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}|\bAIza[A-Za-z0-9_-]{35}"
        r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    ),
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
    ("AKIA", "secret"),
    ("gh", "secret"),
    ("github_pat_", "secret"),
    ("sk-", "secret"),
    ("hf_", "secret"),
    ("AIza", "secret"),
    ("xox", "secret"),
    ("-----BEGIN", "secret"),
)
"""A pattern is only searched if one of its cues is in the text, which is far faster to find."""
ALWAYS = frozenset({"zero_width_or_control"})
NUMBERS = re.compile(r"\d[\d.() -]{5,}[\dXx]")
"""The cue of all patterns of numbers."""


def text_findings(text: str, part: str) -> Iterator[Finding]:
    """Yield each kind of flaw in a text once, with its first occurrence."""
    for code in _likely(text):
        prove = PROOFS.get(code)
        for match in PATTERNS[code].finditer(text):
            # a number with a wrong checksum is no card and no identity number, a later one may be
            if prove is None or prove(match[0]):
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
    return " ".join(text.split())


def looks_like_mojibake(text: str) -> bool:
    """Whether ftfy finds wrongly decoded text; it looks for nothing that Chinese text has."""
    # ftfy is slow, and it needs two such characters next to each other
    if text.isascii() or not SUSPECT.search(text):
        return False
    from ftfy.badness import is_bad

    return bool(is_bad(text))


SUSPECT = re.compile("[\u0080-\u00ff\u0152-\u0178\u2018-\u2122]{2}")


def _luhn(found: str) -> bool:
    digits = [int(d) for d in found if d.isdigit()]
    # few different digits are typical of examples such as 4444 4444 4444 4444
    if len(digits) not in CARD_LENGTHS or len(set(digits)) < 4:
        return False
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _identity(found: str) -> bool:
    total = sum(int(d) * weight for d, weight in zip(found, ID_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == found[-1].upper()


PROOFS: dict[str, Callable[[str], bool]] = {"pii_card": _luhn, "pii_id_cn": _identity}
NUMERIC = frozenset(code for code in PATTERNS if code.startswith("pii") and code != "pii_email")
