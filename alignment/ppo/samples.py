"""Completions with their scores, logged while training for a person to read."""

from typing import Any

from torch import Tensor


def sample_rows(
    prompts: list[Any], completions: list[Any], scores: Tensor, kl: Tensor
) -> list[dict[str, Any]]:
    """The rows of the table "samples".

    Args:
        prompts: Text or messages of each of B prompts.
        completions: The answer to each.
        scores: Combined reward of each answer, (B,).
        kl: KL of each answer to the reference in nats, (B,).
    """
    return [
        {"prompt": prompt, "completion": completion, "score": score, "kl": nats}
        for prompt, completion, score, nats in zip(
            prompts, completions, scores.tolist(), kl.tolist(), strict=True
        )
    ]
