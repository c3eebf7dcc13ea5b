"""Scores of samples by a reward model, read as `align ppo` reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from alignment.errors import ConfigError
from alignment.reject.plan import Plan
from alignment.reject.rows import Text


@dataclass(frozen=True)
class Scores:
    """A reward on its device."""

    reward: Any

    def __call__(
        self, prompts: Sequence[Text], texts: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """The score of each sample of each prompt."""
        repeated = [p for p, samples in zip(prompts, texts, strict=True) for _ in samples]
        flat = [text for samples in texts for text in samples]
        completions = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(repeated, flat, strict=True)
        ]
        scores = iter(self.reward(prompts=repeated, completions=completions))
        return [[float(next(scores)) for _ in samples] for samples in texts]


def load_scores(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Scores | None:
    """The reward model of a plan, None where it has none.

    Raises:
        ConfigError: It cannot be loaded, or was measured to do no better than guessing.
    """
    if plan.reward_model is None:
        return None
    from alignment.ppo.reward_models import ModelReward
    from alignment.ppo.rewards import load_rewards

    (reward,), _ = load_rewards(
        [plan.reward_model],
        policy_tokenizer=tokenizer,
        accuracy_gate=plan.options.reward_accuracy_gate,
    )
    if not isinstance(reward, ModelReward):
        raise ConfigError(
            f"reward_model: {plan.reward_model}: not the folder of a model", "name a run of rm"
        )
    found = torch.accelerator.current_accelerator(check_available=True)
    reward.device = found if found is not None else torch.device("cpu")
    classifier: Any = reward.classifier
    classifier.to(reward.device)
    return Scores(reward)
