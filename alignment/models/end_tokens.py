"""The tokens that end an answer, the same in tokenizer, model config and generation config."""

from typing import Any


def set_end_tokens(model: Any, tokenizer: Any) -> None:
    """Let the EOS token of a tokenizer end the answers of the model that is saved with it.

    The ids that the model already has are kept: any of them ends an answer. A score head finds the
    end of a text in a padded batch by the pad token of the config.
    """
    token = tokenizer.eos_token_id
    config = model.config.get_text_config()
    config.eos_token_id = _with(token, config.eos_token_id)
    if not model.can_generate():
        config.pad_token_id = tokenizer.pad_token_id
        return
    generation = model.generation_config
    generation.eos_token_id = _with(token, generation.eos_token_id)


def _with(token: int | None, known: int | list[int] | None) -> int | list[int] | None:
    ids = [known] if isinstance(known, int) else list(known or [])
    if token is None:
        return known
    found = ids if token in ids else [token, *ids]
    return found[0] if len(found) == 1 else found
