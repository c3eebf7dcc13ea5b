"""What a recipe changes of a model's tokenizer: chat template, end token, added tokens.

The changes are decided once, from the files of the model alone, and then made on both forms of a
tokenizer: the light one that prepares rows, and transformers' own that the trainer saves.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from alignment.errors import ConfigError
from alignment.models.folders import tokenizer_home
from alignment.models.tokenizer import load_tokenizer
from alignment.registry import Stage
from alignment.runs import TOKENIZER
from data_tools import rendering
from data_tools.formats import Unusable
from data_tools.rendering import ChatTemplate, ModelTokenizer, from_transformers, read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SUFFIXES = (".jinja", ".j2")


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

    def make(self, tokenizer: "PreTrainedTokenizerBase") -> None:
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
        template, added, its_eos = _named_template(given, tokenizer, values)
        eos = eos or its_eos
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


def _named_template(
    given: str, tokenizer: ModelTokenizer, values: Mapping[str, Any]
) -> tuple[str, tuple[AddedToken, ...], str]:
    """The text of a template, tokens to add, and an end token that comes with it.

    A template is the name of a known one, a file, or a model whose template is used.
    """
    path = Path(given)
    if path.is_file():
        return path.read_text(encoding="utf-8"), (), ""
    if given in known_templates():
        return known_templates()[given].read_text(encoding="utf-8"), (), ""
    if (path / TOKENIZER).is_file():
        other = read_tokenizer(path)
        lacking = tuple(
            token
            for _, token in sorted(other.encoder.get_added_tokens_decoder().items())
            if not tokenizer.has_token(token.content)
        )
        if lacking and values.get("chat_template_path") != given:
            names = ", ".join(token.content for token in lacking[:5])
            raise ConfigError(
                f"chat_template: {given}: its template needs tokens that {tokenizer.name} lacks: "
                f"{names}",
                "train them first: `align sft --chat_template_path` adds them to the model",
            )
        its_eos = other.eos if values.get("chat_template_path") == given else ""
        return other.template, lacking, its_eos
    near = difflib.get_close_matches(given, known_templates(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"chat_template: {given}: no such file, model folder or known template",
        f"{hint}known: {', '.join(known_templates())}",
    )


def known_templates() -> dict[str, Path]:
    """Chat templates by name: ours, and the originals that TRL ships."""
    folders = [Path(rendering.__file__).parent]
    trl = find_spec("trl")  # found, not imported: that takes seconds
    if trl is not None and trl.origin is not None:
        folders.insert(0, Path(trl.origin).parent)
    return {
        file.stem: file
        for folder in folders
        for file in sorted((folder / "chat_templates").glob("*.jinja"))
        if not file.stem.endswith("_training")
    }
