"""Deterministic 95 % intervals for shares, means, ratios and paired differences."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignment.evaluate.records import Estimate

Z_95 = 1.959963984540054
RESAMPLES = 2000
_DRAWS_AT_ONCE = 2_000_000

Floats = NDArray[np.float64]


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """Return the Wilson score interval of a share; a tie counts as half a success.

    Wilson (1927), JASA 22:209-212. Unlike the normal interval it stays within [0, 1] and has a
    width above zero at 0 and at n successes.
    """
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def share(outcomes: Sequence[float]) -> Estimate:
    """The share of ones among `outcomes` (0, 1, or 0.5 for a tie), with its Wilson interval."""
    n, successes = len(outcomes), float(sum(outcomes))
    return Estimate(successes / n, *wilson_interval(successes, n), n)


def mean(values: Sequence[float]) -> Estimate:
    """The mean with a percentile bootstrap interval, because rewards and lengths are skewed."""
    return ratio(values, [1.0] * len(values))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """The ratio of two sums, such as KL per token, with a percentile bootstrap over pairs."""
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    value, n = float(top.sum() / bottom.sum()), len(top)
    if n < 2:
        return Estimate(value, None, None, n)
    low, high = np.quantile(_resampled_ratios(top, bottom), [0.025, 0.975])
    return Estimate(value, float(low), float(high), n)


def _resampled_ratios(top: Floats, bottom: Floats) -> Floats:
    n = len(top)
    generator = np.random.default_rng(0)  # fixed, so that the same input gives the same interval
    at_once = max(1, _DRAWS_AT_ONCE // n)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=rows)
        parts.append((counts @ top) / (counts @ bottom))
    return np.concatenate(parts)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Mean of `ours` minus mean of `theirs` on the same prompts.

    Right/wrong outcomes get the square-and-add score interval for paired shares (Newcombe 1998,
    Statistics in Medicine 17:2635-2650, method 10), because the bootstrap has zero width if no pair
    differs. Other values get a bootstrap over prompts.
    """
    if set(ours) | set(theirs) <= {0.0, 1.0}:
        return _paired_shares(ours, theirs)
    return mean([a - b for a, b in zip(ours, theirs, strict=True)])


def _paired_shares(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    pairs, n = list(zip(ours, theirs, strict=True)), len(ours)
    both, neither = pairs.count((1, 1)), pairs.count((0, 0))
    first, second = pairs.count((1, 0)), pairs.count((0, 1))
    p1, p2 = (both + first) / n, (both + second) / n
    (low1, high1), (low2, high2) = wilson_interval(p1 * n, n), wilson_interval(p2 * n, n)
    phi = _phi(both, first, second, neither)
    below = _square_and_add(p1 - low1, high2 - p2, phi)
    above = _square_and_add(high1 - p1, p2 - low2, phi)
    return Estimate(p1 - p2, p1 - p2 - below, p1 - p2 + above, n)


def _square_and_add(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def _phi(both: int, first: int, second: int, neither: int) -> float:
    """Correlation of the two outcomes, continuity-corrected; 0 if a margin is empty."""
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins == 0:
        return 0.0
    excess = float(both * neither - first * second)
    if excess > 0:
        excess = max(excess - (both + first + second + neither) / 2, 0)
    return excess / math.sqrt(margins)


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Share of prompts with `ours` above `theirs`; a tie counts as a half."""
    return share(
        [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs, strict=True)]
    )
