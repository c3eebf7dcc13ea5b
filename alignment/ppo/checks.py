"""Faults that can be found before the first rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from alignment.errors import ConfigError, DataError
from alignment.ppo.reward_models import ModelReward

if TYPE_CHECKING:
    from alignment.ppo.reward_functions import Reward


def check_ends(eos_token_ids: list[int | None], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a policy that cannot end a response.

    Raises:
        ConfigError: neither the tokenizer nor the model names an EOS token.
    """
    if not [token for token in eos_token_ids if token is not None]:
        raise ConfigError(
            f"{tokenizer.name_or_path}: the policy has no EOS token, so no response would end",
            "set eos_token in its tokenizer_config.json or eos_token_id in generation_config.json",
        )


def check_stats(rewards: dict[str, Reward | None]) -> None:
    """Refuse `normalize_reward` if a reward model, or every reward, has no statistics.

    Functions and HTTP scorers have none; next to a reward model their scores stay as they are.

    Raises:
        ConfigError: names a reward without statistics.
    """
    known = [reward for reward in rewards.values() if reward is not None and reward.stats]
    for name, reward in rewards.items():
        if reward is not None and reward.stats:
            continue
        if isinstance(reward, ModelReward) or not known:
            raise ConfigError(
                f"normalize_reward: reward {name} has no statistics of its scores "
                "(reward_stats.json)",
                "train the reward model with the rm stage, or set normalize_reward: false",
            )


def check_count(dataset: Any, *, num_prompts: int) -> None:
    """Refuse a data set that does not fill one rollout: TRL would leave it out, and train nothing.

    Raises:
        DataError: names both numbers.
    """
    if isinstance(dataset, Dataset) and len(dataset) < num_prompts:
        raise DataError(
            f"{len(dataset)} prompts, and one rollout needs {num_prompts}",
            "give more prompts, or lower per_device_train_batch_size or steps_per_generation",
        )
