"""Sequence classifiers with one label, which is what a reward model is: whole ones and adapters."""

import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from trl.trainer.reward_trainer import suppress_seqcls_warning

from alignment.errors import ConfigError
from alignment.models.folders import (
    DEFAULT_REVISION,
    adapter_base,
    load_config,
    weights_place,
)
from alignment.models.skeleton import check_weights
from alignment.runs import ADAPTER_WEIGHTS, MODEL_CONFIG

_REMEDY = "train one with the rm stage"


def load_classifier(
    path: str, *, trust_remote_code: bool = False, role: str = "reward_model"
) -> PreTrainedModel:
    """Load a trained reward model; an adapter is merged into a base of its own.

    Args:
        path: A folder or a hub name.
        trust_remote_code: Whether code beside the model may run.
        role: Begins the message of an error.

    Raises:
        ConfigError: It is not a sequence classifier with one label, or cannot be read.
    """
    check_classifier(path, trust_remote_code=trust_remote_code, role=role)
    if adapter_base(path) is not None:
        adapted = load_adapter_classifier(path, trust_remote_code=trust_remote_code)
        model: PreTrainedModel = adapted.merge_and_unload()
        return model
    kind = AutoModelForSequenceClassification
    check_weights(kind, path, trust_remote_code=trust_remote_code)
    return _load(path, trust_remote_code=trust_remote_code)


def load_adapter_classifier(path: str, *, trust_remote_code: bool = False) -> PeftModel:
    """Load a reward model that is an adapter, on a base of its own, not merged."""
    place = weights_place(path)
    base = new_classifier(place.path, revision=place.revision, trust_remote_code=trust_remote_code)
    return load_adapter(base, path)


def load_adapter(base: Any, path: str, *, is_trainable: bool = False) -> PeftModel:
    """Load the adapter in a folder onto its base.

    Raises:
        ConfigError: Its weights cannot be read, or some are missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            return PeftModel.from_pretrained(base, path, is_trainable=is_trainable)
    except SafetensorError as error:
        raise ConfigError(
            f"{path}: its weights cannot be read: {error}", "save it again"
        ) from error
    except UserWarning as warning:
        raise ConfigError(f"{path}: {str(warning)[:200]}", "save it again, whole") from warning


def new_classifier(path: str, **options: Any) -> PreTrainedModel:
    """Load a causal language model as a classifier with one label, whose head is random.

    Args:
        path: A folder or a hub name.
        **options: For transformers' `from_pretrained`.
    """
    trusts = bool(options.get("trust_remote_code"))
    check_weights(
        AutoModelForSequenceClassification,
        path,
        revision=options.get("revision", DEFAULT_REVISION),
        trust_remote_code=trusts,
        new_head=True,
        num_labels=1,
    )
    with suppress_seqcls_warning():  # that the head is new, which is what was asked for
        return _load(path, num_labels=1, **options)


def _load(path: str, **options: Any) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(path, **options)
    return model


def check_classifier(
    path: str, *, trust_remote_code: bool = False, role: str = "reward_model"
) -> None:
    """Check from the files of a trained reward model that it has one label and its head.

    Raises:
        ConfigError: It has not.
    """
    if adapter_base(path) is not None:
        labels = _labels_of_adapter(Path(path), role)
    else:
        labels = _labels_of_config(path, trust_remote_code=trust_remote_code, role=role)
    if labels != 1:
        raise ConfigError(f"{role} {path}: it has {labels} labels, a reward model has 1", _REMEDY)


def _labels_of_config(path: str, *, trust_remote_code: bool, role: str) -> int:
    if Path(path).is_dir() and not (Path(path) / MODEL_CONFIG).is_file():
        raise ConfigError(f"{role} {path}: no model in this folder", "name a run of rm")
    config = load_config(path, trust_remote_code=trust_remote_code)
    names = config.architectures or []
    if not any("SequenceClassification" in name or "Reward" in name for name in names):
        raise ConfigError(
            f"{role} {path}: {', '.join(names) or 'this'} is not a sequence classifier", _REMEDY
        )
    return int(config.num_labels or 0)


def _labels_of_adapter(folder: Path, role: str) -> int:
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ConfigError(f"{role} {folder}: no {weights.name}", "run rm again")
    with safe_open(weights, framework="pt") as file:
        heads = [name for name in file.keys() if ".lora_" not in name]  # noqa: SIM118 - no dict
        labels = [file.get_slice(name).get_shape()[0] for name in heads if "weight" in name]
    if not labels:
        raise ConfigError(
            f"{role} {folder}: the adapter was saved without its score head, so its scores "
            "would be random",
            'train it with modules_to_save: ["score"], as the rm stage does',
        )
    return int(max(labels))
