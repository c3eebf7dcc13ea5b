"""Texts as a model sees them: its tokenizer and chat template, without its framework.

Reads `tokenizer.json` and the template from a model's folder; the template runs in a sandbox
that counts its steps.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Encoding, Tokenizer

from alignment.errors import ConfigError
from data_tools.formats.record import Message, Text
from data_tools.formats.turns import as_messages
from data_tools.rendering.templates import CLOSE, ITS_FAULTS, OPEN, Counted

TEMPLATE_LIMIT = 200_000


@dataclass(frozen=True, slots=True)
class Spoken:
    """A conversation as text, and the spans `[start, end)` of it that carry loss."""

    text: str
    loss: tuple[tuple[int, int], ...]


class ModelText:
    """A model's tokenizer and chat template.

    Args:
        folder: Where its `tokenizer.json` is.
        as_chat: Whether text is asked and answered in turns of the template; None, as in training:
            wherever there is a template.

    Raises:
        ConfigError: If the folder lacks `tokenizer.json`, or the template cannot be used.
    """

    def __init__(self, folder: str | Path, *, as_chat: bool | None = None) -> None:
        folder = Path(folder)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"{folder}: no tokenizer.json here", "name a model's folder")
        self.tokenizer = Tokenizer.from_file(str(file))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        settings = folder / "tokenizer_config.json"
        config = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
        self.special = {name: _token(config.get(name)) for name in ("bos_token", "eos_token")}
        named = self.tokenizer.get_added_tokens_decoder().values()
        self.special_tokens = tuple(t.content for t in named if t.special and len(t.content) > 3)
        source = _template_of(folder, config)
        self.environment = Counted()
        try:
            self.template = self.environment.from_string(source) if source else None
        except TemplateError as error:
            raise ConfigError(
                f"{folder}: the chat template cannot be read: {error}", "fetch the model again"
            ) from error
        self.as_chat = self.template is not None if as_chat is None else as_chat
        self._asked: tuple[list[Message], str] = ([], "")

    def spoken(self, prompt: Text, answer: Text = "", *, opened: bool = False) -> Spoken:
        """Prompt and answer as the model reads them.

        Turns go through the template, and text too `as_chat`; else text stays text, with the end
        token after an answer. Text without a prompt is no turn: it is what pre-training reads.

        Args:
            prompt: What is asked.
            answer: The answer; carries the loss.
            opened: End with the template's opening of an answer.

        Raises:
            ConfigError: If there are turns and no template.
        """
        wrapped = self.as_chat and prompt
        if isinstance(prompt, str) and isinstance(answer, str) and not wrapped:
            text = prompt + answer + (self.special["eos_token"] if answer else "")
            return Spoken(text, ((len(prompt), len(text)),) if answer else ())
        asked = as_messages(prompt, "user") if prompt else []
        turns = asked + (as_messages(answer, "assistant") if answer else [])
        text = self._rendered(turns, opened=opened)
        if OPEN in text:
            return _spans(text)
        begin = self._opening(asked) if answer and asked else ""
        if not answer or not text.startswith(begin):
            return Spoken(text, ())
        return Spoken(text, ((len(begin), len(text)),))

    def encoded(self, text: str) -> Encoding:
        """Tokens of one text, with their places in it."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def token_ids(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Token ids of many texts, fast."""
        for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield encoding.ids

    def _opening(self, asked: list[Message]) -> str:
        """The prompt up to where an answer begins; that of a pair is made once for both sides."""
        if self._asked[0] != asked:
            self._asked = (asked, self._rendered(asked, opened=True))
        return self._asked[1]

    def _rendered(self, turns: list[Message], *, opened: bool) -> str:
        if self.template is None:
            raise ConfigError(
                "this tokenizer has no chat template, and the rows are conversations",
                "name the folder of an instruct model; text without turns needs --plain",
            )
        try:
            return self.environment.render(
                self.template,
                messages=turns,
                add_generation_prompt=opened,
                tools=None,
                **self.special,
            )
        except ITS_FAULTS as error:
            raise ConfigError(
                f"the chat template refuses a row: {error}", "see the roles of the row"
            ) from error


def _spans(marked: str) -> Spoken:
    """Take the marks out and keep where they stood."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    at = begin = 0
    for piece in re.split(f"([{OPEN}{CLOSE}])", marked):
        if piece == OPEN:
            begin = at
        elif piece == CLOSE:
            spans.append((begin, at))
        else:
            pieces.append(piece)
            at += len(piece)
    return Spoken("".join(pieces), tuple(spans))


def _template_of(folder: Path, config: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    found = file.read_text("utf-8") if file.is_file() else config.get("chat_template") or ""
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default") or next(iter(named.values()))
    if len(found) > TEMPLATE_LIMIT:
        raise ConfigError(
            f"{folder}: the chat template has {len(found):,} characters", "look at it"
        )
    return str(found)


def _token(value: Any) -> str:
    return str(value["content"]) if isinstance(value, dict) else str(value or "")
