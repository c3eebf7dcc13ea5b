"""Keep keys and tokens out of records, logs, warnings and tracebacks."""

import json
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Mapping
from textwrap import indent
from types import TracebackType
from typing import Any
from urllib.parse import quote

from data_tools.secret_patterns import hide_secrets

REDACTED = "<redacted>"
_ENDS = ("_token", "_key", "_secret", "password")
#: Keys about a tokenizer's tokens, which are not secret.
_HARMLESS = ("eos_token", "bos_token", "pad_token", "unk_token")
#: Variables that libraries read secrets from; their values are redacted everywhere.
_VARIABLES = re.compile(
    r"(TOKEN|API_?KEY|(^|_)KEY|ACCESS_KEY_ID|SECRET|PASSWORD|PASSWD|CREDENTIALS?|_PAT)$",
    re.IGNORECASE,
)
#: What follows Authorization.
_AUTHORIZATION = re.compile(r"(?<=Bearer )[\w.~+/=-]{8,}|(?<=Basic )[\w+/=]{8,}")
#: User and password of a URL, and the parameters of its query.
_USER = re.compile(r"(?<=://)[^/\s@]{1,512}@")
_PARAMETER = re.compile(r"(?<=[?&;])([\w.-]{1,64})=([^&;#\s\"'<>]{1,4096})")
#: Parameters of URLs that are secret, beside the keys that `is_secret` knows.
_PARAMETERS = ("key", "apikey", "auth", "authorization", "code", "pass", "passwd", "pwd", "secret",
               "sig", "signature", "credential")  # fmt: skip


def is_secret(key: str) -> bool:
    """Whether the name of a key shows that its value is secret."""
    name = key.lower().lstrip("-").replace("-", "_")
    return (name == "token" or name.endswith(_ENDS)) and name not in _HARMLESS


def redact(key: str, value: Any) -> Any:
    """The value of a key, redacted if it is secret."""
    if is_secret(key) and value:
        return REDACTED
    if isinstance(value, Mapping):
        return {name: redact(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [redact("", inner) for inner in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str) -> str:
    """A text without the secrets of the environment and without anything that looks like one."""
    for value in _planted():
        text = text.replace(value, REDACTED)
    text = _AUTHORIZATION.sub(REDACTED, hide_secrets(text, REDACTED))
    if "://" not in text:
        return text
    return _PARAMETER.sub(_without_secret, _USER.sub(f"{REDACTED}@", text))


def _without_secret(parameter: re.Match[str]) -> str:
    name = parameter[1].lower().replace("-", "_")
    secret = is_secret(name) or name.rpartition("_")[2] in _PARAMETERS
    return f"{parameter[1]}={REDACTED}" if secret else parameter[0]


def _planted() -> list[str]:
    """The secrets of the environment, plain and as escaped in Python, JSON and URLs."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if len(value) >= 8 and _VARIABLES.search(name):
            found |= {value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value, safe="")}
    return sorted(found, key=len, reverse=True)  # a secret may be a prefix of another


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


def guard_output() -> None:
    """Redact secrets in what Python prints by itself: tracebacks, warnings and log lines.

    A bug keeps its traceback, and the message of an exception may contain a whole environment.
    """
    sys.excepthook = tell_exception
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _tell_thread
    logging.setLogRecordFactory(_Record)
    if warnings.formatwarning is _plain_warning:
        warnings.formatwarning = _format_warning


def tell_exception(
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
    *,
    prefix: str = "",
) -> None:
    """Print a traceback to stderr without secrets, with a prefix before each line."""
    text = redact_text("".join(traceback.format_exception(kind, error, trace)))
    sys.stderr.write(indent(text, prefix))
    sys.stderr.flush()


class _Record(logging.LogRecord):
    """A log record whose message and traceback contain no secrets, for every handler."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0]:
            lines = traceback.format_exception(*self.exc_info)
            self.exc_text = redact_text("".join(lines)).rstrip("\n")

    def getMessage(self) -> str:
        """The message with its arguments, redacted."""
        return redact_text(super().getMessage())


_plain_warning = warnings.formatwarning


def _format_warning(*args: Any, **kwargs: Any) -> str:
    return redact_text(_plain_warning(*args, **kwargs))


def _tell_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        tell_exception(args.exc_type, args.exc_value, args.exc_traceback)
