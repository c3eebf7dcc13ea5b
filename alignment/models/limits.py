"""What a model can read, from its config alone: how long a text, and which token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignment.models.folders import adapter_base, load_config, tokenizer_home

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: The names that configs of causal models give the number of positions.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length")


def positions_in(config: Mapping[str, Any]) -> int | None:
    """The longest text in tokens that a model can read; None if its config does not say.

    A config that scales rotary positions (YaRN, linear, dynamic) may give the number before it.
    """
    positions = next((config[name] for name in _POSITIONS if config.get(name)), None)
    if positions is None:
        return None
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    factor = scaling.get("factor")
    if not isinstance(factor, int | float):
        return int(positions)
    original = scaling.get("original_max_position_embeddings") or positions
    return max(int(positions), int(original * factor))


def max_positions(config: PreTrainedConfig) -> int | None:
    """The same for a config that transformers loaded."""
    return positions_in(config.get_text_config().to_dict())


def embeddings_in(config: Mapping[str, Any], path: str, *, tokens: int) -> int | None:
    """How many token ids a model has embeddings for; None if its config does not say.

    Args:
        config: Of the whole model.
        path: The model, or the adapter on it.
        tokens: Size of its tokenizer.
    """
    count: int | None = config.get("vocab_size")
    if count and adapter_base(path) is not None and tokenizer_home(path) == path:
        # the base gets embeddings for the tokens that came with the adapter
        return max(count, tokens)
    return count


def read_limits(path: str, *, tokens: int) -> tuple[int | None, int | None]:
    """The positions and embeddings of the model in a folder or on the hub."""
    config = load_config(path).get_text_config().to_dict()
    return positions_in(config), embeddings_in(config, path, tokens=tokens)
