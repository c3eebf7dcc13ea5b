"""The models that a stage starts from or scores with, as shapes: configs are read, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data.rows import Start, read_start
from alignment.errors import ConfigError
from alignment.models.folders import DEFAULT_REVISION, adapter_base, load_config, weights_place
from alignment.settings.reward_spec import parse_reward

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedConfig

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """A model as an earlier stage or somebody else left it.

    Attributes:
        config: The shape of the whole model.
        base: The whole model's folder or hub name.
        adapter: The trained adapter on it; None: there is none.
        dtype: Of the whole model's weights.
        start: What rows are read with; None: it has no tokenizer, or scores only.
    """

    config: PreTrainedConfig
    base: str
    adapter: LoraConfig | None
    dtype: str
    start: Start | None = None


def first_origin(values: Values) -> Origin:
    """The model that a stage starts from if no earlier stage makes it.

    Raises:
        ConfigError: None is named, or it has no config that transformers knows.
    """
    path = values["model_name_or_path"]
    if not path:
        raise ConfigError(
            "model_name_or_path: no model is named",
            "give --model_name_or_path DIR, or plan the pipeline that has this stage",
        )
    origin = _read(str(path), values, "model_name_or_path", values["model_revision"])
    try:
        return replace(origin, start=read_start(values))
    except ConfigError:  # a config is enough to plan with; then rows are assumed to be full
        return origin


def reward_origins(values: Values) -> tuple[Origin, ...]:
    """The reward models that are whole models or adapters; functions and URLs take no memory here.

    Raises:
        ConfigError: One has no config that transformers knows.
    """
    names = [name for name in values["reward_model"] or () if parse_reward(name).is_model]
    return tuple(_read(name, values, "reward_model", DEFAULT_REVISION) for name in names)


def _read(path: str, values: Values, key: str, revision: str) -> Origin:
    """The shape of a model from its config; of an adapter, that of its base."""
    base = weights_place(path, revision).path
    trusts = values["trust_remote_code"]
    try:
        config = load_config(path, revision=revision, trust_remote_code=trusts)
    except (OSError, ValueError, KeyError) as error:
        why = (str(error).strip().splitlines() or ["unknown"])[0]
        if not Path(base).exists():
            why = "no such folder, and no hub model that can be reached"
        raise ConfigError(
            f"{key}: {base}: no config to plan with: {why}",
            "give a model's folder, or a hub name (behind a slow network: HF_ENDPOINT)",
        ) from error
    stored = str(config.get_text_config().dtype or config.dtype or "float32")
    return Origin(config, base, _read_adapter(path), stored.removeprefix("torch."))


def _read_adapter(path: str) -> LoraConfig | None:
    from peft import PeftConfig

    return None if adapter_base(path) is None else PeftConfig.from_pretrained(path)
