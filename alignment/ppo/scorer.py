"""A reward model outside of training, scoring exactly as PPO scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from alignment.models.device import default_device
from alignment.models.folders import check_reward_model
from alignment.ppo.rewards import load_reward_model

if TYPE_CHECKING:
    from alignment.ppo.reward_models import ModelReward


def load_scorer(
    path: str, *, policy_tokenizer: PreTrainedTokenizerBase, accuracy_gate: float = 0.0
) -> ModelReward:
    """Load a reward model onto the accelerator, onto the CPU if there is none.

    Args:
        path: A run of rm, another folder of a sequence classifier or adapter, or a hub name.
        policy_tokenizer: Renders chats for a reward model that has no chat template.
        accuracy_gate: Least held-out accuracy of a reward model with a run record; 0: any.

    Raises:
        ConfigError: It is not a model, cannot be loaded, or fails the gate.
    """
    check_reward_model(path)
    reward = load_reward_model(path, policy_tokenizer=policy_tokenizer, accuracy_gate=accuracy_gate)
    reward.device = default_device()
    classifier: Any = reward.classifier
    classifier.to(reward.device)
    return reward
