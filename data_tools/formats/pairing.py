"""Makes pairs of ranked or scored answers, by a named policy."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from data_tools.formats.plain_text import digest, plain
from data_tools.formats.turns import pair_of

if TYPE_CHECKING:
    from data_tools.formats.record import Record

Order: TypeAlias = list[tuple[int, int]]
"""Pairs of indices (better, worse) into answers that are sorted best first."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """How answers become pairs.

    Attributes:
        policy: A name in POLICIES.
        max_pairs: Most pairs per prompt under `all-pairs`; those furthest apart are kept.
        min_margin: Least difference of scores; a pair without a margin passes only at 0.
        seed: Random seed of `best-vs-random`; the draw depends on it and the prompt alone, so that
            the order of the rows does not matter.
    """

    policy: str = "best-vs-worst"
    max_pairs: int = 16
    min_margin: float = 0.0
    seed: int = 0


class Dropped(NamedTuple):
    """Why a pair of the policy is not used."""

    code: str
    reason: str


def is_paired(record: Record, pairing: Pairing) -> bool:
    """Whether `pairs_of` can change a record: a ranking, or a pair if there is a least margin."""
    return record.kind == "ranked" or (record.kind == "preference" and pairing.min_margin > 0)


def pairs_of(record: Record, pairing: Pairing) -> tuple[list[Record], list[Dropped]]:
    """Return the pairs of a ranking, or a pair itself, and those that are dropped.

    Args:
        record: A record of the kind `ranked` or `preference`.
        pairing: The policy and its limits.
    """
    if record.kind == "preference":
        why = _refused(record, pairing)
        return ([], [why]) if why else ([record], [])
    ranked = _best_first(record)
    order = POLICIES[pairing.policy](ranked, pairing)
    dropped = []
    if pairing.policy == "all-pairs" and len(order) > pairing.max_pairs:
        over = len(order) - pairing.max_pairs
        # the distance in rank, not in score, since ranks without scores have no other
        order = sorted(order, key=lambda pair: (pair[0] - pair[1], pair))[: pairing.max_pairs]
        dropped = [Dropped("over_cap", f"more than {pairing.max_pairs} pairs per prompt")] * over
    kept = []
    for better, worse in sorted(order):
        pair = _pair(ranked, better, worse)
        why = _refused(pair, pairing)
        if why:
            dropped.append(why)
        else:
            kept.append(pair)
    return kept, dropped


def _pair(ranked: Record, better: int, worse: int) -> Record:
    scores = ranked.scores
    margin = None if scores is None else scores[better] - scores[worse]
    pair = pair_of(ranked.prompt, ranked.answers[better], ranked.answers[worse], margin=margin)
    if ranked.tools is None and ranked.template_kwargs is None:
        return pair
    return replace(pair, tools=ranked.tools, template_kwargs=ranked.template_kwargs)


def _refused(pair: Record, pairing: Pairing) -> Dropped | None:
    """Return why a pair teaches no preference or one with too small a margin, else None."""
    margin = pair.margin
    if margin is None:
        if pairing.min_margin > 0:
            return Dropped("no_margin", "the source has no scores to compare with --min-margin")
        return None
    if margin == 0:
        return Dropped("tie", "both answers have the same score")
    if margin < 0:
        return Dropped("negative_margin", f"rejected is scored higher than chosen, by {-margin:g}")
    if margin < pairing.min_margin:
        return Dropped("min_margin", f"margin {margin:g} is under {pairing.min_margin:g}")
    return None


def _best_first(record: Record) -> Record:
    if record.scores is None:
        return record
    order = sorted(range(len(record.scores)), key=lambda i: -record.scores[i])  # type: ignore[index]
    scores = record.scores
    return replace(
        record,
        answers=tuple(record.answers[i] for i in order),
        scores=tuple(scores[i] for i in order),
    )


def _best_vs_worst(ranked: Record, _: Pairing) -> Order:
    return [(0, len(ranked.answers) - 1)]


def _all_pairs(ranked: Record, _: Pairing) -> Order:
    return list(itertools.combinations(range(len(ranked.answers)), 2))


def _adjacent(ranked: Record, _: Pairing) -> Order:
    return list(itertools.pairwise(range(len(ranked.answers))))


def _best_vs_rest(ranked: Record, _: Pairing) -> Order:
    return [(0, worse) for worse in range(1, len(ranked.answers))]


def _best_vs_random(ranked: Record, pairing: Pairing) -> Order:
    """Pair the best with a random one of lower score; with an equal one only if all are equal."""
    rest = range(1, len(ranked.answers))
    scores = ranked.scores
    below = [i for i in rest if scores is None or scores[i] < scores[0]] or list(rest)
    # seeded by the prompt, so that the draw does not depend on the order of the rows
    draw = random.Random(f"{pairing.seed}:{digest(plain(ranked.prompt))}")
    return [(0, draw.choice(below))]


POLICIES: dict[str, Callable[[Record, Pairing], Order]] = {
    "best-vs-worst": _best_vs_worst,
    "all-pairs": _all_pairs,
    "adjacent": _adjacent,
    "best-vs-rest": _best_vs_rest,
    "best-vs-random": _best_vs_random,
}
