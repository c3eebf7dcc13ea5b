"""Keys and tokens kept out of what is written: records, logs of the command, error texts."""

import os
import re
from collections.abc import Iterable
from typing import Any

REDACTED = "<redacted>"
_ENDS = ("_token", "_key", "_secret", "password")
#: Variables that libraries read keys from; their values are struck out wherever they turn up.
_VARIABLES = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD|ACCESS_KEY|ACCESS_KEY_ID)$")
#: Hugging Face, AWS, OpenAI-like keys, and what follows Authorization.
_SHAPES = re.compile(
    r"hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{16,}"
    r"|(?<=Bearer )[\w.~+/=-]{8,}|(?<=Basic )[\w+/=]{8,}"
)


def is_secret(key: str) -> bool:
    """Whether the name of a key says that its value is nobody's business."""
    return key.lower().replace("-", "_").endswith(_ENDS)


def redact(key: str, value: Any) -> Any:
    """The value of a key as it may be written down."""
    if is_secret(key) and value:
        return REDACTED
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str) -> str:
    """A text without the keys of the environment and without what looks like one."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _VARIABLES.search(name):
            text = text.replace(value, REDACTED)
    return _SHAPES.sub(REDACTED, text)


def redact_words(words: Iterable[str]) -> list[str]:
    """A command line without the values of secret flags."""
    found: list[str] = []
    after_secret = False
    for word in words:
        name, equals, _ = word.partition("=")
        secret = word.startswith("--") and is_secret(name)
        if after_secret and not word.startswith("--"):
            found.append(REDACTED)
        else:
            found.append(f"{name}={REDACTED}" if secret and equals else redact_text(word))
        after_secret = secret and not equals
    return found
