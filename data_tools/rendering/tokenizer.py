"""The tokenizer of a model for data: its vocabulary, chat template and special tokens, no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from alignment.errors import ConfigError
from data_tools.rendering.places import Spelling, spelling_of

#: Characters; a larger template is no chat template.
TEMPLATE_LIMIT = 200_000
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
            "mask_token")  # fmt: skip


@dataclass(frozen=True)
class ModelTokenizer:
    """What rendering needs of a tokenizer.

    Attributes:
        encoder: Turns text into ids, with the place of each token in the text.
        template: The chat template; empty if there is none.
        special: The named special tokens that a template may use (`eos_token`, ...).
        name: What messages call it: the folder or hub name.
    """

    encoder: Tokenizer
    template: str
    special: Mapping[str, str]
    name: str

    @property
    def eos(self) -> str:
        """The end-of-sequence token; empty if there is none."""
        return self.special.get("eos_token", "")

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """The texts of all special tokens, longest first."""
        added = self.encoder.get_added_tokens_decoder().values()
        texts = {token.content for token in added if token.special} | set(self.special.values())
        return tuple(sorted(filter(None, texts), key=len, reverse=True))

    @cached_property
    def spelling(self) -> Spelling | None:
        """The bytes of each token if the vocabulary is byte-level: places of tokens follow."""
        return spelling_of(self.encoder)

    @cached_property
    def key(self) -> str:
        """A digest of everything that decides which ids a text becomes."""
        special = json.dumps(sorted(self.special.items()))
        parts = (self.encoder.to_str(), self.template, special)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def changed(
        self, *, template: str, eos: str, added: Sequence[AddedToken] = ()
    ) -> ModelTokenizer:
        """Return the tokenizer with another chat template, end token and further tokens."""
        # a copy: adding tokens changes an encoder in place
        encoder = Tokenizer.from_str(self.encoder.to_str()) if added else self.encoder
        encoder.add_tokens(list(added))
        special = {**self.special, **({"eos_token": eos} if eos else {})}
        return replace(self, encoder=encoder, template=template, special=special)

    def has_token(self, text: str) -> bool:
        """Whether a text is one token."""
        return self.encoder.token_to_id(text) is not None


def read_tokenizer(folder: str | Path) -> ModelTokenizer:
    """Read the tokenizer of a model's folder from its files, without transformers.

    Raises:
        ConfigError: If the folder has no `tokenizer.json`, or a file cannot be read.
    """
    folder = Path(folder)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(f"{folder}: no tokenizer.json here", "name a model's folder")
    try:
        encoder = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception for a broken file
        raise ConfigError(f"{file}: cannot be read: {error}", "fetch the model again") from error
    settings = folder / "tokenizer_config.json"
    try:
        config = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{settings}: not JSON: {error}", "fetch the model again") from error
    special = {name: _token_text(config.get(name)) for name in _SPECIAL}
    return _made(encoder, _template_of(folder, config), special, str(folder))


def from_transformers(tokenizer: Any) -> ModelTokenizer:
    """Wrap a tokenizer that transformers loaded.

    Raises:
        ConfigError: If it has no fast backend, so that the places of its tokens are unknown.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{tokenizer.name_or_path}: this tokenizer has no fast version",
            "convert it: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER) writes "
            "tokenizer.json if transformers can",
        )
    template = tokenizer.chat_template
    # older models name several; `default` is the one that transformers applies
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()))
    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    special = {name: str(tokenizer.special_tokens_map.get(name) or "") for name in _SPECIAL}
    return _made(encoder, template or "", special, str(tokenizer.name_or_path))


def _made(
    encoder: Tokenizer, template: str, special: Mapping[str, str], name: str
) -> ModelTokenizer:
    # saved limits and padding would cut or fill rows without a report
    encoder.no_truncation()
    encoder.no_padding()
    if len(template) > TEMPLATE_LIMIT:
        raise ConfigError(
            f"{name}: the chat template has {len(template):,} characters", "check the file"
        )
    given = {key: value for key, value in special.items() if value}
    if "eos_token" in given:  # as `alignment.models.folders` pads
        given.setdefault("pad_token", given["eos_token"])
    return ModelTokenizer(encoder, template, given, name)


def _template_of(folder: Path, config: Mapping[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    found = file.read_text("utf-8") if file.is_file() else config.get("chat_template") or ""
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default") or next(iter(named.values()))
    return str(found)


def _token_text(value: Any) -> str:
    return str(value["content"]) if isinstance(value, dict) else str(value or "")
