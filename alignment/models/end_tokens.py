"""The tokens that end an answer, the same in tokenizer, model config and generation config."""

from typing import Any


def set_end_tokens(trainer: Any) -> None:
    """Let the EOS token of a trainer's tokenizer end the answers of the model that it saves.

    The ids that the model already has are kept: any of them ends an answer.
    """
    token = trainer.processing_class.eos_token_id
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = model.config.get_text_config()
    config.eos_token_id = _with(token, config.eos_token_id)
    if model.can_generate():
        generation = model.generation_config
        generation.eos_token_id = _with(token, generation.eos_token_id)


def _with(token: int, known: int | list[int] | None) -> int | list[int]:
    ids = [known] if isinstance(known, int) else list(known or [])
    found = ids if token in ids else [token, *ids]
    return found[0] if len(found) == 1 else found
