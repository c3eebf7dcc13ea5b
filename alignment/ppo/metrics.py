"""The metrics of a rollout, averaged over responses and tokens of all processes.

`alignment/ppo/README.md` explains each and gives its healthy range.
"""

import torch
from torch import Tensor

from alignment.ppo import math
from alignment.ppo.experience import Experience


def rollout_metrics(
    experience: Experience,
    scores: Tensor,
    *,
    rewards: dict[str, Tensor],
    ended: Tensor,
    beta: float,
    reduce: math.Reduce,
) -> dict[str, float]:
    """Summarise a rollout, by metric.

    Shape:
        scores, ended, each of rewards: `(N,)`. Lengths are in tokens, KL and entropy in nats.
    """
    rollout, mask = experience.rollout, experience.rollout.response_mask
    everyone = torch.ones_like(ended)

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
        found[f"rewards/{name}"] = mean(values, ~torch.isnan(values))
    return found
