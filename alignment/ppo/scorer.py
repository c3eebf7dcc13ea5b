"""A reward model outside of training, scoring exactly as PPO scores."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from alignment.errors import ConfigError
from alignment.ppo.reward_models import ModelReward
from alignment.ppo.rewards import load_rewards


def load_scorer(
    spec: str, *, policy_tokenizer: PreTrainedTokenizerBase, accuracy_gate: float = 0.0
) -> ModelReward:
    """Load a reward model onto the best device there is.

    Args:
        spec: A run of rm, another folder of a sequence classifier or adapter, or a hub name.
        policy_tokenizer: Renders chats for a reward model that has no chat template.
        accuracy_gate: Least held-out accuracy of a reward model with a run record; 0: any.

    Raises:
        ConfigError: It cannot be loaded, or was measured to do no better than guessing.
    """
    (reward,), _ = load_rewards(
        [spec], policy_tokenizer=policy_tokenizer, accuracy_gate=accuracy_gate
    )
    if not isinstance(reward, ModelReward):
        raise ConfigError(f"reward_model: {spec}: not the folder of a model", "name a run of rm")
    found = torch.accelerator.current_accelerator(check_available=True)
    reward.device = found if found is not None else torch.device("cpu")
    classifier: Any = reward.classifier
    classifier.to(reward.device)
    return reward
