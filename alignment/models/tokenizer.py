"""The tokenizer of a model: beside it, or in the base that its adapter names."""

from typing import TYPE_CHECKING

from alignment.errors import ConfigError
from alignment.models.folders import tokenizer_home

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(
    path: str, *, revision: str = "main", trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model, which pads with its EOS where it has no padding of its own.

    Args:
        path: A folder or a hub name.
        revision: Of the model; an adapter's base without a tokenizer of its own is taken as it is.
        trust_remote_code: Whether code beside the tokenizer may run.

    Raises:
        ConfigError: There is none, or the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    home = tokenizer_home(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            home,
            revision=revision if home == path else "main",
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{home}: no tokenizer: {first_line}",
            "give a folder with tokenizer.json, or a hub name (behind a slow network: HF_ENDPOINT)",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
