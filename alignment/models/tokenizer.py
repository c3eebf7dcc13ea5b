"""The tokenizer of a model: in its folder, or that of the base that its adapter names."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import ConfigError
from alignment.models.folders import DEFAULT_REVISION, tokenizer_home, tokenizer_place
from alignment.runs import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(
    path: str, *, revision: str = DEFAULT_REVISION, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model; it pads with its EOS if it has no padding token.

    Args:
        path: A folder or a hub name.
        revision: Of the model, or of its base if the tokenizer is that one's and the adapter does
            not name another.
        trust_remote_code: Whether code beside the tokenizer may run.

    Raises:
        ConfigError: There is none, or the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    place = tokenizer_place(path, revision)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place.path, revision=place.revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{place.path}: no tokenizer: {first_line}",
            f"give a folder with {TOKENIZER}, or a hub name (behind a slow network: HF_ENDPOINT)",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_padding_tokenizer(
    path: str, *, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model that reads batches as it is: without a token to pad, it cannot.

    Raises:
        ConfigError: There is none, it names neither a padding nor an EOS token, or the hub cannot
            be reached.
    """
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"{path}: the tokenizer has no pad token and no end token, so batches cannot be padded",
            f"set eos_token in its {TOKENIZER_CONFIG}",
        )
    return tokenizer


def has_chat_template(path: str) -> bool:
    """Whether the tokenizer of a model has a chat template, from its files if it is in a folder."""
    home = tokenizer_home(path)
    folder = Path(home)
    if not folder.is_dir():
        return load_tokenizer(home).chat_template is not None
    config = folder / TOKENIZER_CONFIG
    if (folder / CHAT_TEMPLATE).is_file() or (folder / "chat_template.json").is_file():
        return True
    return config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))
