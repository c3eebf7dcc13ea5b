"""Steps 2 to 4 of PPO: from rewards and responses to scores, advantages and returns.

Shapes: N responses of this process, T response tokens, F reward functions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from trl.trainer.utils import use_adapter

from alignment.errors import DataError
from alignment.ppo import math
from alignment.ppo.adapters import keeping_activations, kept_gradients
from alignment.ppo.forward import ResponseOutput

if TYPE_CHECKING:
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.reward_functions import ScoreStats
    from alignment.ppo.rollout import Rollout

Context = Callable[[], AbstractContextManager[Any]]


def respond(model: nn.Module, rows: Rollout, **flags: Any) -> ResponseOutput:
    """Run the policy, and the critic if asked for, over some rows."""
    output: ResponseOutput = model(
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask,
        response_length=rows.response_ids.size(1),
        **flags,
    )
    return output


class TokenScores(NamedTuple):
    """What policy, critic and reference say of each token, `(N, T)`; 0 where none counts."""

    logps: Tensor
    values: Tensor
    ref_logps: Tensor | None
    entropy: Tensor

    def as_output(self) -> ResponseOutput:
        """The same as if the policy had just been asked."""
        return ResponseOutput(logps=self.logps, entropy=self.entropy, state_values=self.values)


def score_tokens(
    model: nn.Module,
    rollout: Rollout,
    *,
    reference: Callable[[Rollout], Tensor] | None,
    plan: list[Tensor],
    autocast: Context,
    with_entropy: bool = False,
) -> TokenScores:
    """Compute old log-probabilities, values, the reference's log-probabilities, and entropy.

    The rows go through in the micro-batches that the first epoch uses, with the same padding, so
    the ratio is exactly 1 in the first mini-batch. No gradients; policy and values come from one
    forward.

    Args:
        model: The policy with its critic.
        rollout: The responses.
        reference: Returns the reference's log-probabilities of some rows; None: there is none.
        plan: Row indices of each micro-batch.
        autocast: The precision that training computes in.
        with_entropy: Whether entropies are computed; else they are 0.
    """
    logps, values, ref_logps, entropy = (torch.zeros_like(rollout.old_logps) for _ in range(4))
    with torch.no_grad(), autocast(), keeping_activations(model):
        for index in plan:
            rows = rollout.rows(index)
            # the rows of a micro-batch are cut to its longest response
            length = rows.response_ids.size(1)
            wanted = {"entropy": "value"} if with_entropy else {}
            output = respond(model, rows, with_values=True, **wanted)
            logps[index, :length] = output.logps.float()
            values[index, :length] = output.state_values.float()
            if with_entropy:
                entropy[index, :length] = output.entropy.float()
            if reference is not None:
                ref_logps[index, :length] = reference(rows).float()
    return TokenScores(logps, values, None if reference is None else ref_logps, entropy)


def reference_of(policy: Any, ref_model: nn.Module | None) -> Callable[[Rollout], Tensor]:
    """Return a function for the reference's log-probabilities of some rows.

    Args:
        policy: The policy; with PEFT it is the reference while its adapter is off.
        ref_model: The frozen copy, if there is one.
    """

    def of_rows(rows: Rollout) -> Tensor:
        if ref_model is not None:
            return respond(ref_model, rows).logps
        # TRL copies an adapter that was there before PPO to `ref`; a new one is switched off.
        name = "ref" if "ref" in policy.peft_config else None
        with kept_gradients(policy), use_adapter(policy, adapter_name=name):
            return respond(policy, rows).logps

    return of_rows


def combine_scores(
    scores: Tensor,
    *,
    weights: Tensor,
    stats: list[ScoreStats | None],
    ended: Tensor,
    args: PPOConfig,
) -> Tensor:
    """Step 2: normalise, weight, sum and clip rewards; subtract the penalty of no EOS.

    Normalisation: arXiv 2403.17031, detail 4; penalty: detail 6.

    Shape:
        scores: `(N, F)`, NaN where a function does not apply; weights: `(F,)`; ended: `(N,)`, True
        if the response ended by itself; the result: `(N,)`.

    Raises:
        DataError: no reward function gave a row a score.
    """
    # nansum of nothing is 0, a score like any other
    without = torch.isnan(scores).all(dim=1)
    if without.any():
        row = int(without.nonzero()[0])
        raise DataError(
            f"row {row} of the rollout: no reward function gave it a score",
            "at least one function must return a number for every completion",
        )
    if args.normalize_reward:
        for column, known in enumerate(stats):
            if known is not None:
                scores[:, column] = (scores[:, column] - known.mean) / (known.std + 1e-8)
    total = (scores * weights).nansum(dim=1)
    if args.score_clip is not None:
        total = total.clamp(-args.score_clip, args.score_clip)
    # after the clip, which would swallow it
    if args.missing_eos_penalty is not None:
        total = total - args.missing_eos_penalty * (~ended).to(total.dtype)
    return total


class Experience(NamedTuple):
    """A rollout ready for training, and the KL of each response `(N,)` by k1 and k3.

    `shift` was added to all values, so the critic's offset must move by it.
    """

    rollout: Rollout
    kl: Tensor
    kl_k3: Tensor
    shift: float


def make_experience(
    rollout: Rollout,
    tokens: TokenScores,
    *,
    scores: Tensor,
    args: PPOConfig,
    beta: float,
    center: bool,
    reduce: math.Reduce,
) -> Experience:
    """Turn scores into per-token rewards (step 3), then into advantages and returns (step 4).

    With `center` the values are shifted first, so that their mean is that of the returns
    (discounted sums of rewards, lambda 1).

    Shape:
        scores: `(N,)`.
    """
    mask = rollout.response_mask
    # 3. r_t = -beta KL_t, plus the score at the last token.
    logps = torch.where(mask, tokens.logps, 0.0)
    ref_logps = logps if tokens.ref_logps is None else torch.where(mask, tokens.ref_logps, 0.0)
    penalty = math.kl_estimate(logps, ref_logps, estimator=args.kl_estimator)
    rewards = math.token_rewards(penalty, scores, mask, beta=beta)
    if args.whiten_rewards:
        # without the mean, a rollout of only bad answers would be half rewarded
        rewards = math.whiten(rewards, mask, keep_mean=True, reduce=reduce)
    # 4. Advantages and returns.
    values, shift = tokens.values, 0.0
    if center:
        # with lambda 1 the advantage is the return minus the value, whatever the other values are
        errors, _ = math.gae(rewards, values, mask, gamma=args.gamma, lam=1.0)
        shift = math.masked_mean(errors, mask, reduce=reduce).item()
        values = torch.where(mask, values + shift, 0.0)
    advantages, returns = math.gae(rewards, values, mask, gamma=args.gamma, lam=args.lam)
    if args.whiten_advantages:
        advantages = math.whiten(advantages, mask, reduce=reduce)
    return Experience(
        rollout.with_tokens(old_logps=logps, values=values, advantages=advantages, returns=returns),
        kl=math.kl_estimate(logps, ref_logps, estimator="k1").sum(dim=1),
        kl_k3=math.kl_estimate(logps, ref_logps, estimator="k3").sum(dim=1),
        shift=shift,
    )
