"""Score samples with a reward model, which is loaded in the same way as by `align ppo`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:
    from alignment.reject.plan import Plan
    from alignment.reject.rows import Text


@dataclass(frozen=True)
class Scores:
    """Scores samples with a loaded reward."""

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
    """The reward model of a plan; None if it has none.

    Raises:
        ConfigError: It cannot be loaded, or its measured accuracy is below the gate.
    """
    if plan.reward_model is None:
        return None
    from alignment.ppo.scorer import load_scorer

    gate = plan.options.reward_accuracy_gate
    return Scores(load_scorer(plan.reward_model, policy_tokenizer=tokenizer, accuracy_gate=gate))
