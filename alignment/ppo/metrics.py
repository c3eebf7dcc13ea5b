"""The metrics of a rollout, averaged over responses and tokens of all processes.

`alignment/ppo/README.md` explains each and gives its healthy range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignment.ppo import math

if TYPE_CHECKING:
    from alignment.ppo.experience import Experience


def rollout_metrics(
    experience: Experience,
    scores: Tensor,
    *,
    rewards: dict[str, Tensor],
    ended: Tensor,
    beta: float,
    reduce: math.Reduce,
    real: Tensor | None = None,
) -> dict[str, float]:
    """Summarise a rollout, by metric.

    Shape:
        scores, ended, each of rewards: `(N,)`; real: `(N,)`, the responses that count, None: all.
        Lengths are in tokens, KL and entropy in nats.
    """
    rollout, mask = experience.rollout, experience.rollout.response_mask
    everyone = torch.ones_like(ended) if real is None else real

    def mean(x: Tensor, where: Tensor = everyone) -> float:
        return float(math.masked_mean(x.float(), where, reduce=reduce))

    kl = mean(experience.kl)
    found = {
        "objective/kl": kl,
        "objective/kl_k3": mean(experience.kl_k3),
        "objective/score": mean(scores),
        "objective/non_score_reward": -beta * kl,
        "objective/rlhf_reward": mean(scores) - beta * kl,
        "objective/beta": beta,
        "response/length": mean(rollout.response_attention.sum(dim=1)),
        "response/eos_rate": mean(ended),
        "critic/value": mean(rollout.values, mask),
        "critic/return": mean(rollout.returns, mask),
        "critic/explained_variance": float(
            math.explained_variance(rollout.values, rollout.returns, mask, reduce=reduce)
        ),
    }
    _, variance = math.masked_moments(scores, everyone, reduce=reduce)
    found["objective/score_std"] = float(variance.sqrt())
    for name, values in rewards.items():
        found[f"rewards/{name}"] = mean(values, everyone & ~torch.isnan(values))
    return found


def length_metrics(lengths: Sequence[int], ended: Sequence[bool]) -> dict[str, float]:
    """TRL's metrics of the lengths of all responses, in tokens, under its names."""
    found = {"completions/clipped_ratio": 1.0 - sum(ended) / len(ended)}
    by_themselves = [n for n, is_end in zip(lengths, ended, strict=True) if is_end]
    for kind, some in (("", lengths), ("terminated_", by_themselves or [0])):
        found[f"completions/mean_{kind}length"] = sum(some) / len(some)
        found[f"completions/min_{kind}length"] = float(min(some))
        found[f"completions/max_{kind}length"] = float(max(some))
    return found
