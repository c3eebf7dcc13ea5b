"""Chat templates by name: a known one, a file, or that of a model."""

import difflib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken

from alignment.errors import ConfigError
from data_tools.rendering.tokenizer import ModelTokenizer, read_tokenizer


class NamedTemplate(NamedTuple):
    """A chat template that was named.

    Attributes:
        text: The template.
        added: Tokens of the model that it comes from, which the other tokenizer lacks.
        eos: The end token of that model; empty if it comes from no model.
    """

    text: str
    added: tuple[AddedToken, ...] = ()
    eos: str = ""


def named_template(
    given: str, tokenizer: ModelTokenizer, *, adds_tokens: bool = False
) -> NamedTemplate:
    """Find a chat template by the name of a known one, as a file, or in the folder of a model.

    Raises:
        ConfigError: It is not there, or needs tokens that the tokenizer lacks and that are not to
            be added.
    """
    path = Path(given)
    if path.is_file():
        return NamedTemplate(path.read_text(encoding="utf-8"))
    if given in known_templates():
        return NamedTemplate(known_templates()[given].read_text(encoding="utf-8"))
    if (path / "tokenizer.json").is_file():
        return _template_of_model(path, tokenizer, adds_tokens=adds_tokens)
    near = difflib.get_close_matches(given, known_templates(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"chat_template: {given}: no such file, model folder or known template",
        f"{hint}known: {', '.join(known_templates())}",
    )


def _template_of_model(
    folder: Path, tokenizer: ModelTokenizer, *, adds_tokens: bool
) -> NamedTemplate:
    other = read_tokenizer(folder)
    lacking = tuple(
        token
        for _, token in sorted(other.encoder.get_added_tokens_decoder().items())
        if not tokenizer.has_token(token.content)
    )
    if lacking and not adds_tokens:
        names = ", ".join(token.content for token in lacking[:5])
        raise ConfigError(
            f"chat_template: {folder}: its template needs tokens that {tokenizer.name} lacks: "
            f"{names}",
            "train them first: `align sft --chat_template_path` adds them to the model",
        )
    return NamedTemplate(other.template, lacking, other.eos)


def known_templates() -> dict[str, Path]:
    """Chat templates by name: ours, and the originals that TRL ships."""
    folders = [Path(__file__).parent]
    trl = find_spec("trl")  # found, not imported: that takes seconds
    if trl is not None and trl.origin is not None:
        folders.insert(0, Path(trl.origin).parent)
    return {
        file.stem: file
        for folder in folders
        for file in sorted((folder / "chat_templates").glob("*.jinja"))
        if not file.stem.endswith("_training")
    }
