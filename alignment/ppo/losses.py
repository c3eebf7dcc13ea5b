"""Step 5 of PPO: the loss of a micro-batch, and the sums that become metrics of a mini-batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignment.ppo import math

if TYPE_CHECKING:
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.forward import ResponseOutput
    from alignment.ppo.rollout import Rollout


@dataclass
class StepSums:
    """Sums over the tokens of a mini-batch, in the order of `METRICS`."""

    rows: list[Tensor] = field(default_factory=list)

    METRICS = (
        "policy/loss",
        "critic/loss",
        "policy/entropy",
        "policy/clip_fraction",
        "policy/approx_kl",
        "policy/ratio",
        "critic/clip_fraction",
    )

    def add(self, values: list[Tensor], num_tokens: Tensor) -> None:
        """Add the sums of a micro-batch, detached."""
        self.rows.append(torch.stack([*values, num_tokens]).detach().float())

    def finish(self, reduce: math.Reduce) -> dict[str, float]:
        """Average over the tokens of all micro-batches and processes, and start again from 0."""
        *sums, count = reduce(torch.stack(self.rows).sum(dim=0)).tolist()
        self.rows.clear()
        return {name: x / max(count, 1.0) for name, x in zip(self.METRICS, sums, strict=True)}


def ppo_loss(
    output: ResponseOutput,
    rows: Rollout,
    *,
    args: PPOConfig,
    sums: StepSums,
    train_policy: bool,
) -> Tensor:
    """Sum clipped surrogate, value loss and entropy bonus over the tokens of a micro-batch.

    Eq. 9 of arXiv 1707.06347, as a loss: L_clip + c_1 L_value - c_2 entropy. The caller divides by
    the tokens of the mini-batch, so that accumulation changes nothing.

    Args:
        output: Policy and critic on the rows, with gradients.
        rows: The rows, with old log-probabilities, advantages and returns.
        args: Clip ranges and coefficients.
        sums: Gets the sums for the metrics.
        train_policy: False while the critic warms up. The policy's terms then weigh 0; they stay in
            the graph, since DDP waits for every parameter.
    """
    mask = rows.response_mask
    # bfloat16 has 3 digits, too few for a ratio near 1
    logps, values = output.logps.float(), output.state_values.float()
    high = args.epsilon_high if args.epsilon_high is not None else args.cliprange
    policy = math.policy_loss(
        logps, rows.old_logps, rows.advantages, mask, clip=(args.cliprange, high)
    )
    critic, critic_clipped = math.value_loss(
        values, rows.values, rows.returns, mask, clip=args.cliprange_value
    )
    entropy = math.masked_sum(output.entropy.float(), mask)
    sums.add(
        [
            policy.loss,
            critic,
            entropy,
            policy.clipped,
            policy.approx_kl,
            math.masked_sum(policy.ratio, mask),
            critic_clipped,
        ],
        mask.sum(),
    )
    actor = policy.loss
    if args.entropy_coef:
        actor = actor - args.entropy_coef * entropy
    return actor * float(train_policy) + args.vf_coef * critic
