"""What a recipe changes of a model's tokenizer: chat template, end token, added tokens.

The changes are decided once, from the files of the model alone, and then made on both forms of a
tokenizer: the light one that prepares rows, and transformers' own that the trainer saves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from alignment.errors import ConfigError
from alignment.models.folders import load_tokenizer, tokenizer_home
from alignment.runs import TOKENIZER
from data_tools.formats import Unusable
from data_tools.rendering import (
    ChatTemplate,
    ModelTokenizer,
    from_transformers,
    named_template,
    read_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignment.registry import Stage


@dataclass(frozen=True, slots=True)
class TokenizerChanges:
    """What becomes of a tokenizer before anything is rendered.

    Attributes:
        template: Its chat template; empty: none.
        eos: Its end token; empty: none.
        added: Tokens of the model that the template comes from, which this one lacks.
        note: One line for the user if the end token changes by itself; else empty.
    """

    template: str
    eos: str
    added: tuple[AddedToken, ...] = ()
    note: str = ""

    def on(self, tokenizer: ModelTokenizer) -> ModelTokenizer:
        """Make the changes on a light tokenizer; returns a new one."""
        return tokenizer.changed(template=self.template, eos=self.eos, added=self.added)

    def make(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Make the changes on transformers' tokenizer, in place."""
        tokenizer.chat_template = self.template or None
        tokenizer.add_tokens(list(self.added))
        if self.eos and tokenizer.eos_token != self.eos:
            tokenizer.eos_token = self.eos
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token


def light_tokenizer(values: Mapping[str, Any]) -> ModelTokenizer:
    """The tokenizer of a stage's model; from its files if it is a folder, so without torch.

    Raises:
        ConfigError: there is none, or the hub cannot be reached.
    """
    path = str(values["model_name_or_path"])
    home = Path(tokenizer_home(path))
    if (home / TOKENIZER).is_file() and not values["trust_remote_code"]:
        return read_tokenizer(home)
    return from_transformers(
        load_tokenizer(
            path,
            revision=values["model_revision"],
            trust_remote_code=values["trust_remote_code"],
        )
    )


def tokenizer_changes(
    stage: Stage, values: Mapping[str, Any], tokenizer: ModelTokenizer
) -> TokenizerChanges:
    """Decide what the recipe changes of a tokenizer.

    Raises:
        ConfigError: the template is not there or cannot be used, `eos_token` is no token, or the
            tokenizer has no end token.
    """
    given = values.get("chat_template") or values.get("chat_template_path")
    template, eos = tokenizer.template, values.get("eos_token") or ""
    added: tuple[AddedToken, ...] = ()
    for key in ("eos_token", "pad_token"):
        token = values.get(key)
        if token and not tokenizer.has_token(token):
            raise ConfigError(
                f"{key}: {token!r} is no token of {tokenizer.name}", "name one that is"
            )
    if given:
        # TRL adds the tokens of chat_template_path to the model, and takes its end token
        adds = values.get("chat_template_path") == given
        template, added, its_eos = named_template(given, tokenizer, adds_tokens=adds)
        eos = eos or (its_eos if adds else "")
    eos = eos or tokenizer.eos
    found = TokenizerChanges(template, eos, added)
    if not eos:
        raise ConfigError(
            f"{tokenizer.name}: the tokenizer has no end token, so answers would never end",
            "set eos_token in its tokenizer_config.json",
        )
    if stage.kind == "text" or not template or values.get("as_chat") is False:
        return found
    return _with_end_of_turn(found, tokenizer)


def _with_end_of_turn(found: TokenizerChanges, tokenizer: ModelTokenizer) -> TokenizerChanges:
    """Let the token that ends a turn in the template be the end token."""
    changed = found.on(tokenizer)
    try:
        end = ChatTemplate(changed).end_of_turn
    except Unusable:  # a template that refuses a plain question will refuse rows, by their place
        return found
    if not end or end == found.eos:
        return found
    note = f"end of turn: {end} is now the EOS token; the tokenizer of the model has {found.eos}"
    template = found.template
    if "eos_token" in template:  # Phi-3 writes it after the last turn: the text must not change
        template = f"{{% set eos_token = {json.dumps(found.eos)} %}}{template}"
    return TokenizerChanges(template, end, found.added, note)
