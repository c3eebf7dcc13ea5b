"""What scores a response: reward models, Python functions and HTTP scorers, one or several."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignment.errors import ConfigError
from alignment.ppo.reward_functions import FunctionReward, Reward, ScoreStats, load_function
from alignment.ppo.reward_http import HttpReward
from alignment.ppo.reward_models import AdapterReward, ModelReward
from alignment.runs.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG, RECORD, REWARD_STATS

logger = logging.getLogger(__name__)


def load_rewards(
    specs: list[str],
    *,
    policy_tokenizer: PreTrainedTokenizerBase,
    trust_remote_code: bool = False,
    accuracy_gate: float = 0.55,
    timeout: float = 30.0,
    retries: int = 3,
) -> tuple[list[Reward], list[PreTrainedTokenizerBase | None]]:
    """Turn the entries of `reward_model` into what PPOTrainer takes.

    Args:
        specs: Folders or hub names of sequence classifiers (also LoRA adapters),
            `module:function`, http(s) URLs.
        policy_tokenizer: Renders chats for a reward model that has no chat template.
        trust_remote_code: Whether a model may run code from its repository.
        accuracy_gate: Least held-out accuracy of a reward model with a run record.
        timeout: Seconds that an HTTP scorer may take.
        retries: How often an HTTP scorer is asked again.

    Returns:
        The reward functions, and the tokenizer of each (None where it has none).

    Raises:
        ConfigError: where an entry cannot be loaded or fails the gate.
    """
    if not specs:
        raise ConfigError("reward_model: nothing to learn from", "name at least one reward")
    rewards: list[Reward] = []
    for spec in specs:
        if spec.startswith(("http://", "https://")):
            rewards.append(HttpReward(spec, timeout=timeout, retries=retries))
        elif ":" in spec and not Path(spec).exists():
            rewards.append(FunctionReward(load_function(spec), name=spec))
        else:
            check_gate(spec, gate=accuracy_gate)
            rewards.append(_load_model(spec, policy_tokenizer, trust_remote_code=trust_remote_code))
    return rewards, [r.tokenizer if isinstance(r, ModelReward) else None for r in rewards]


def check_gate(folder: str, *, gate: float) -> None:
    """Refuse a reward model that does no better than guessing on answers it has not seen.

    Raises:
        ConfigError: where its run record has an accuracy under the gate.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        logger.warning("%s has no %s, so its held-out accuracy is unknown", folder, RECORD)
        return
    metrics = json.loads(path.read_text(encoding="utf-8")).get("metrics") or {}
    accuracy = metrics.get("eval_accuracy")
    if accuracy is None:
        logger.warning("%s has no eval_accuracy: give the rm stage eval_data", path)
    elif not accuracy >= gate:  # NaN neither
        raise ConfigError(
            f"reward_model {folder}: it prefers the better of two held-out answers in "
            f"{accuracy:.1%} of cases, under the gate of {gate:.0%}; PPO would chase noise",
            "train it longer or on more data, or lower reward_accuracy_gate",
        )


def read_stats(folder: Path) -> ScoreStats | None:
    """Read mean and deviation of the scores on reference answers, where they were stored.

    Raises:
        ConfigError: where the file is not what the rm stage writes.
    """
    path = folder / REWARD_STATS
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        stats = ScoreStats(float(found["mean"]), float(found["std"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not mean, std and count ({error})", "run rm again") from error
    if not stats.std > 0:
        raise ConfigError(f"{path}: std is {stats.std}, so the scores never differ", "run rm again")
    return stats


def _load_model(
    spec: str, policy_tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool
) -> ModelReward:
    folder = Path(spec)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    if not is_adapter and folder.is_dir() and not (folder / MODEL_CONFIG).is_file():
        raise ConfigError(f"reward_model {spec}: no model in this folder", "name a run of rm")
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec, trust_remote_code=trust_remote_code)
        keys: dict[str, Any] = {
            "name": folder.name,
            "chat_template": tokenizer.chat_template or policy_tokenizer.chat_template,
            "stats": read_stats(folder),
        }
        if is_adapter:
            base = check_adapter(folder)
            load = partial(_load_adapter, folder, base, trust_remote_code)
            return AdapterReward(folder, tokenizer, base=base, load=load, **keys)
        return ModelReward(_load_classifier(spec, trust_remote_code), tokenizer, **keys)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"reward_model {spec}: cannot be loaded ({reason})",
            "name a folder, a hub model, module:function or a URL",
        ) from error


def _load_classifier(spec: str, trust_remote_code: bool) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(spec, trust_remote_code=trust_remote_code)
    names = config.architectures or []
    if not any("SequenceClassification" in name or "Reward" in name for name in names):
        raise ConfigError(
            f"reward_model {spec}: {', '.join(names) or 'this'} is no sequence classifier",
            "train one with the rm stage",
        )
    if config.num_labels != 1:
        raise ConfigError(
            f"reward_model {spec}: it has {config.num_labels} labels, a reward model has 1",
            "train one with the rm stage",
        )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        spec, dtype="auto", trust_remote_code=trust_remote_code
    )
    return model


def check_adapter(folder: Path) -> str:
    """Check that a LoRA reward model holds its score head, and return the name of its base.

    Raises:
        ConfigError: where the head is missing or has more than one label.
    """
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ConfigError(f"reward_model {folder}: no {weights.name}", "run rm again")
    with safe_open(weights, framework="pt") as file:
        heads = [name for name in file.keys() if ".lora_" not in name]  # noqa: SIM118 - no dict
        labels = {file.get_slice(name).get_shape()[0] for name in heads if "weight" in name}
    if not labels:
        raise ConfigError(
            f"reward_model {folder}: the adapter was saved without its score head, so its scores "
            "would be random",
            'train it with modules_to_save: ["score"], as the rm stage does',
        )
    if labels != {1}:
        raise ConfigError(
            f"reward_model {folder}: it has {max(labels)} labels, a reward model has 1",
            "train one with the rm stage",
        )
    return str(PeftConfig.from_pretrained(folder).base_model_name_or_path)


def _load_adapter(folder: Path, base: str, trust_remote_code: bool) -> PreTrainedModel:
    """Load the base and merge the adapter into it."""
    classifier = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype="auto", trust_remote_code=trust_remote_code
    )
    model: PreTrainedModel = PeftModel.from_pretrained(classifier, folder).merge_and_unload()
    return model


__all__ = ["Reward", "check_gate", "load_rewards", "read_stats"]
