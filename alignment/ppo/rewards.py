"""What scores a response: reward models, Python functions and HTTP scorers, one or several."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from alignment.errors import ConfigError
from alignment.models.classifier import check_classifier, load_classifier
from alignment.models.folders import adapter_base, load_padding_tokenizer
from alignment.ppo.reward_functions import FunctionReward, Reward, ScoreStats
from alignment.ppo.reward_http import HttpReward
from alignment.ppo.reward_models import AdapterReward, ModelReward
from alignment.runs import RECORD, REWARD_STATS, load_run
from alignment.settings.reward_spec import RewardKind, load_function, parse_reward

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
        specs: Names of rewards, as `parse_reward` reads them.
        policy_tokenizer: Renders chats for a reward model that has no chat template.
        trust_remote_code: Whether a model may run code from its repository.
        accuracy_gate: Least held-out accuracy of a reward model with a run record.
        timeout: Seconds that an HTTP scorer may take.
        retries: How often an HTTP scorer is asked again.

    Returns:
        The reward functions, and the tokenizer of each (None if it has none).

    Raises:
        ConfigError: An entry cannot be loaded or fails the gate.
    """
    if not specs:
        raise ConfigError("reward_model: nothing to learn from", "name at least one reward")
    rewards: list[Reward] = []
    for reward in map(parse_reward, specs):
        match reward.kind:
            case RewardKind.URL:
                rewards.append(HttpReward(reward, timeout=timeout, retries=retries))
            case RewardKind.FUNCTION:
                rewards.append(FunctionReward(load_function(reward), name=reward.text))
            case RewardKind.FOLDER | RewardKind.HUB:
                rewards.append(
                    load_reward_model(
                        reward.text,
                        policy_tokenizer=policy_tokenizer,
                        trust_remote_code=trust_remote_code,
                        accuracy_gate=accuracy_gate,
                    )
                )
    return rewards, [r.tokenizer if isinstance(r, ModelReward) else None for r in rewards]


def shown_rewards(specs: list[str]) -> list[str]:
    """The entries of `reward_model` without passwords or keys, for what is saved with a run."""
    return [parse_reward(spec).shown for spec in specs]


def load_reward_model(
    path: str,
    *,
    policy_tokenizer: PreTrainedTokenizerBase,
    trust_remote_code: bool = False,
    accuracy_gate: float = 0.0,
) -> ModelReward:
    """Load a reward model with its own tokenizer; that of an adapter when it is first needed.

    Args:
        path: A run of rm, another folder of a sequence classifier or adapter, or a hub name.
        policy_tokenizer: Renders chats for a reward model that has no chat template.
        trust_remote_code: Whether code beside the model may run.
        accuracy_gate: Least held-out accuracy of a reward model with a run record; 0: any.

    Raises:
        ConfigError: It cannot be loaded or fails the gate.
    """
    check_gate(path, gate=accuracy_gate)
    folder = Path(path)
    try:
        check_classifier(path, trust_remote_code=trust_remote_code)
        tokenizer = load_padding_tokenizer(path, trust_remote_code=trust_remote_code)
        keys: dict[str, Any] = {
            "name": folder.name,
            "chat_template": tokenizer.chat_template or policy_tokenizer.chat_template,
            "stats": read_stats(folder),
        }
        load = partial(load_classifier, path, trust_remote_code=trust_remote_code)
        base = adapter_base(path)
        if base is not None:
            return AdapterReward(folder, tokenizer, base=base, load=load, **keys)
        return ModelReward(load(), tokenizer, **keys)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"reward_model {path}: cannot be loaded ({reason})", "name a run of rm, or a hub model"
        ) from error


def check_gate(path: str, *, gate: float) -> None:
    """Refuse a reward model that does no better than guessing on answers it has not seen.

    Raises:
        ConfigError: Its run recorded an accuracy under the gate.
    """
    run = load_run(Path(path))
    if run is None:
        logger.warning("%s has no %s, so its held-out accuracy is unknown", path, RECORD)
        return
    accuracy = run.metrics.get("eval_accuracy")
    if accuracy is None:
        logger.warning("%s has no eval_accuracy: give the rm stage eval_data", Path(path) / RECORD)
    elif not accuracy >= gate:  # NaN neither
        raise ConfigError(
            f"reward_model {path}: it prefers the better of two held-out answers in "
            f"{accuracy:.1%} of cases, under the gate of {gate:.0%}; PPO would chase noise",
            "train it longer or on more data, or lower reward_accuracy_gate",
        )


def read_stats(folder: Path) -> ScoreStats | None:
    """Read mean and deviation of the scores on reference answers, None if none were stored.

    Raises:
        ConfigError: The file is not what the rm stage writes.
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
