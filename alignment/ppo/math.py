"""The equations of PPO for language models as pure functions on tensors.

Shapes: B responses, T tokens of the longest response. `response_mask` is `(B, T)`, True where a
token was sampled by the policy and counts. Log-probabilities are in nats, of the sampled tokens,
under the distribution that was sampled from (logits divided by the temperature).

Papers: PPO, arXiv 1707.06347; GAE, arXiv 1506.02438; Fine-tuning from human preferences (adaptive
KL), arXiv 1909.08593; the N implementation details, arXiv 2403.17031; Schulman, "Approximating KL
divergence", joschu.net/blog/kl-approx.html.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]
#: Sums a tensor over all processes; `same` if there is one process.
Reduce = Callable[[Tensor], Tensor]


def same(total: Tensor) -> Tensor:
    """Return the sum of a single process as it is."""
    return total


def kl_estimate(logps: Tensor, ref_logps: Tensor, *, estimator: KLEstimator = "k1") -> Tensor:
    """Estimate KL(pi || pi_ref) at each sampled token.

    With log r = log pi_ref - log pi: k1 = -log r (unbiased, may be negative), k2 = (log r)^2 / 2
    (biased, low variance), k3 = r - 1 - log r (unbiased, never negative). Schulman's note.

    Shape:
        logps, ref_logps, result: `(B, T)`, nats.
    """
    log_ratio = ref_logps - logps
    match estimator:
        case "k1":
            return -log_ratio
        case "k2":
            return log_ratio.square() / 2
        case "k3":
            # expm1, since r - 1 rounds the difference of two models that nearly agree to 0
            return torch.expm1(log_ratio) - log_ratio
    raise ValueError(f"unknown KL estimator {estimator!r}")


def token_rewards(kl: Tensor, scores: Tensor, response_mask: Tensor, *, beta: float) -> Tensor:
    """Compute r_t = -beta KL_t, plus the score at the last token of each response.

    Eq. 2 of InstructGPT (arXiv 2203.02155), per token as in arXiv 1909.08593. A response without
    tokens gets no reward.

    Shape:
        kl, response_mask, result: `(B, T)`; scores: `(B,)`.
    """
    rewards = torch.where(response_mask, -beta * kl, 0.0)
    steps = torch.arange(response_mask.size(1), device=response_mask.device)
    last = torch.where(response_mask, steps, -1).max(dim=1).values
    is_last = (steps == last.unsqueeze(1)) & response_mask
    return rewards + torch.where(is_last, scores.unsqueeze(1), 0.0)


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Compute generalised advantages and the returns that the critic learns.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t); A_t = delta_t + gamma lambda A_{t+1} (eq. 11 to 16 of
    arXiv 1506.02438), with V = 0 after the last token; returns = A + V. Both are 0 where the mask
    is False.

    Shape:
        rewards, values, response_mask, and both results: `(B, T)`.
    """
    mask = response_mask.to(values.dtype)
    # a value after the end would reach the last token as V(s_{t+1})
    values = values * mask
    rewards = rewards * mask
    following = torch.zeros_like(values[:, 0])
    advantage = torch.zeros_like(following)
    advantages = torch.empty_like(values)
    for step in range(values.size(1) - 1, -1, -1):
        delta = rewards[:, step] + gamma * following - values[:, step]
        advantage = (delta + gamma * lam * advantage) * mask[:, step]
        advantages[:, step] = advantage
        following = values[:, step]
    return advantages, (advantages + values) * mask


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum the entries where the mask is True; NaN elsewhere has no effect."""
    return torch.where(mask, x, 0.0).sum()


def masked_mean(x: Tensor, mask: Tensor, *, reduce: Reduce = same) -> Tensor:
    """Average the entries where the mask is True, over all processes; 0 if there are none."""
    total = reduce(torch.stack([masked_sum(x, mask), mask.sum().to(x.dtype)]))
    return total[0] / total[1].clamp(min=1)


def masked_moments(x: Tensor, mask: Tensor, *, reduce: Reduce = same) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance of the entries where the mask is True.

    Two passes (mean first, then squared deviations), since one pass loses the variance of large
    numbers in float32. With a single entry the variance is 0.
    """
    mean = masked_mean(x, mask, reduce=reduce)
    total = reduce(torch.stack([masked_sum((x - mean).square(), mask), mask.sum().to(x.dtype)]))
    return mean, total[0] / (total[1] - 1).clamp(min=1)


def whiten(
    x: Tensor, mask: Tensor, *, keep_mean: bool = False, reduce: Reduce = same, eps: float = 1e-8
) -> Tensor:
    """Scale to variance 1 and, unless `keep_mean`, move to mean 0; 0 where the mask is False.

    Statistics are over the entries where the mask is True in all processes (arXiv 2403.17031,
    details 18 and 19). If all entries are equal the result is 0, or the mean with `keep_mean`.
    """
    mean, variance = masked_moments(x, mask, reduce=reduce)
    centred = (x - mean) * torch.rsqrt(variance + eps)
    return torch.where(mask, centred + mean if keep_mean else centred, 0.0)


class PolicyLoss(NamedTuple):
    """The clipped surrogate summed over real tokens, and how far the policy moved."""

    loss: Tensor
    clipped: Tensor
    approx_kl: Tensor
    ratio: Tensor


def policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip: tuple[float, float],
) -> PolicyLoss:
    """Sum -min(rho A, clip(rho, 1 - clip[0], 1 + clip[1]) A) over real tokens.

    Eq. 7 of arXiv 1707.06347 with rho = pi(y_t) / pi_old(y_t). Sums, not means, so that the caller
    divides by the tokens of the whole mini-batch and accumulation changes nothing.

    Shape:
        logps, old_logps, advantages, response_mask: `(B, T)`. Results: `loss`, `clipped` (tokens
        where the clip cut the gradient) and `approx_kl` (k3 of the old policy to the new one, in
        nats) are scalars summed over tokens; `ratio` is `(B, T)`.
    """
    # before exp: what padding holds could overflow, and its gradient be NaN even with weight 0
    log_ratio = torch.where(response_mask, logps - old_logps, 0.0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip[0], 1 + clip[1])
    with torch.no_grad():
        approx_kl = masked_sum(ratio - 1 - log_ratio, response_mask)
        is_clipped = masked_sum((clipped > unclipped).to(ratio.dtype), response_mask)
    loss = masked_sum(torch.maximum(unclipped, clipped), response_mask)
    return PolicyLoss(loss, is_clipped, approx_kl, ratio)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    *,
    clip: float | None,
) -> tuple[Tensor, Tensor]:
    """Sum half the squared error of the critic over real tokens, clipped around the old values.

    0.5 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2), arXiv 2403.17031 detail 20. With
    `clip=None` there is no clip.

    Shape:
        values, old_values, returns, response_mask: `(B, T)`. Results: the loss and the number of
        tokens where the clip decided, scalars summed over tokens.
    """
    error = (values - returns).square()
    if clip is None:
        return 0.5 * masked_sum(error, response_mask), torch.zeros((), device=values.device)
    moved = values - old_values
    clipped_error = (old_values + moved.clamp(-clip, clip) - returns).square()
    is_over = (moved.abs() > clip) & (clipped_error > error)
    is_clipped = masked_sum(is_over.to(values.dtype), response_mask)
    return 0.5 * masked_sum(torch.maximum(error, clipped_error), response_mask), is_clipped


def explained_variance(
    values: Tensor, returns: Tensor, response_mask: Tensor, *, reduce: Reduce = same
) -> Tensor:
    """Compute the share of the returns' variance that the critic explains: 1 - Var(R - V) / Var(R).

    1: a perfect critic; 0: one that knows the mean at best; below 0: worse than a constant. NaN if
    the returns do not vary.

    Shape:
        values, returns, response_mask: `(B, T)`; the result is a scalar.
    """
    _, residual = masked_moments(returns - values, response_mask, reduce=reduce)
    _, total = masked_moments(returns, response_mask, reduce=reduce)
    return torch.where(total > 0, 1 - residual / total, torch.nan)


def entropy(logps: Tensor) -> Tensor:
    """Compute -sum_v p_v log p_v, in nats.

    Shape:
        logps: log-probabilities of the whole vocabulary, `(..., V)`; the result: `(...)`.
    """
    # `special.entr` would compute the logarithm of every p again. The clamp makes 0 times -inf 0.
    terms = logps.exp() * logps.clamp(min=torch.finfo(logps.dtype).min)
    return -terms.sum(dim=-1)


def adapt_beta(beta: float, kl: float, *, target: float, horizon: int, responses: int) -> float:
    """Move the KL coefficient towards a KL, as a proportional controller in log space.

    e = clip(KL / KL_target - 1, -0.2, 0.2); beta <- beta (1 + e n / horizon), arXiv 1909.08593
    sec. 2.2.

    Args:
        beta: The coefficient of the rollout.
        kl: KL of policy to reference per response, in nats.
        target: KL_target, in nats per response.
        horizon: Responses over which the controller acts, 1 / K_beta.
        responses: n, the responses of the rollout in all processes.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * responses / horizon)
