"""The models of PPO made ready for training: policy, critic, reference and reward models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from alignment.ppo.adapters import BORROWED
from alignment.ppo.critic import keep_critic_apart, make_critic, policy_of
from alignment.ppo.forward import add_response_forward
from alignment.ppo.reward_models import AdapterReward, ModelReward

if TYPE_CHECKING:
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.reward_functions import Reward


def prepare_models(
    model: nn.Module,
    reference: nn.Module | None,
    rewards: list[Reward],
    *,
    args: PPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Any,
) -> None:
    """Give the policy its critic and the forward that PPO calls; place the reward models.

    Args:
        model: The causal language model, or its PEFT wrapper.
        reference: The frozen copy, if there is one.
        rewards: What scores responses; a LoRA reward model may move onto the policy's base.
        args: The keys of the run.
        tokenizer: The policy's.
        accelerator: Where models are placed.

    Raises:
        ConfigError: no such critic can be made.
    """
    if args.share_base:
        for number, reward in enumerate(rewards):
            if isinstance(reward, AdapterReward):
                reward.share(model, f"{BORROWED}{number}")
    models = [reward for reward in rewards if isinstance(reward, ModelReward)]
    critic = make_critic(model, args=args, rewards=models, tokenizer=tokenizer)
    policy, temperature = policy_of(model), args.temperature
    add_response_forward(policy, temperature=temperature, critic=critic.to(accelerator.device))
    keep_critic_apart(policy)
    if reference is not None:
        add_response_forward(accelerator.unwrap_model(reference), temperature=temperature)
    for reward in rewards:
        reward.place(accelerator)
