"""Pairs from ranked or scored answers, by a named policy."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from data_tools.formats.plain_text import digest, plain
from data_tools.formats.record import Record
from data_tools.formats.turns import pair_of

Order: TypeAlias = list[tuple[int, int]]
"""Index pairs (better, worse) into answers sorted best first."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """How answers become pairs.

    Attributes:
        policy: One of POLICIES.
        max_pairs: Most pairs a prompt under `all-pairs`; the widest apart are kept.
        min_margin: Least difference of scores; a pair of unknown margin passes only at 0.
        seed: Of `best-vs-random`; with the prompt it fixes the draw, whatever the order of rows.
    """

    policy: str = "best-vs-worst"
    max_pairs: int = 16
    min_margin: float = 0.0
    seed: int = 0


class Dropped(NamedTuple):
    """Why a pair that the policy made is not among the pairs."""

    code: str
    reason: str


def is_paired(record: Record, pairing: Pairing) -> bool:
    """Whether `pairs_of` has a say in what becomes of a record: rankings, and pairs by margin."""
    return record.kind == "ranked" or (record.kind == "preference" and pairing.min_margin > 0)


def pairs_of(record: Record, pairing: Pairing) -> tuple[list[Record], list[Dropped]]:
    """The pairs of a ranked record, or of a preference record itself, and those dropped."""
    if record.kind == "preference":
        why = _refused(record, pairing)
        return ([], [why]) if why else ([record], [])
    ranked = _best_first(record)
    order = POLICIES[pairing.policy](ranked, pairing)
    dropped = []
    if pairing.policy == "all-pairs" and len(order) > pairing.max_pairs:
        over = len(order) - pairing.max_pairs
        order = sorted(order, key=lambda pair: (pair[0] - pair[1], pair))[: pairing.max_pairs]
        dropped = [Dropped("over_cap", f"more than {pairing.max_pairs} pairs a prompt")] * over
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
    """Why a pair teaches no preference, or not one wide enough."""
    margin = pair.margin
    if margin is None:
        if pairing.min_margin > 0:
            return Dropped("no_margin", "the source gives no scores to hold --min-margin against")
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
    """The best against one drawn from those below it; a tie with the best only where all tie."""
    rest = range(1, len(ranked.answers))
    scores = ranked.scores
    below = [i for i in rest if scores is None or scores[i] < scores[0]] or list(rest)
    draw = random.Random(f"{pairing.seed}:{digest(plain(ranked.prompt))}")
    return [(0, draw.choice(below))]


POLICIES: dict[str, Callable[[Record, Pairing], Order]] = {
    "best-vs-worst": _best_vs_worst,
    "all-pairs": _all_pairs,
    "adjacent": _adjacent,
    "best-vs-rest": _best_vs_rest,
    "best-vs-random": _best_vs_random,
}
