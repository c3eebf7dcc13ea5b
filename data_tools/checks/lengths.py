"""How long answers are: the bias towards the longer one, and what max_length cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_tools.checks import Finding, Where
from data_tools.formats import Record, Unusable, plain

if TYPE_CHECKING:
    from data_tools.rendering import Renderer, Spoken, Tokens

RESAMPLES = 1000
FAIR, STRONG = 0.60, 0.70
FEW = 50
CUT_SHARE = 0.01
CUT_LEAN = 0.80


@dataclass
class LengthBias:
    """P(chosen is longer than rejected), ties counting half.

    Attributes:
        longer, shorter, even: Pairs in which chosen is longer, shorter, as long.
        ratio_sum: Sum of chosen / rejected lengths, over pairs with both.
    """

    longer: int = 0
    shorter: int = 0
    even: int = 0
    ratio_sum: float = 0.0
    ratios: int = 0

    def add(self, record: Record) -> None:
        """Take a pair in, by characters."""
        self.add_lengths(len(plain(record.chosen)), len(plain(record.rejected)))

    def add_lengths(self, chosen: int, rejected: int) -> None:
        """Take a pair in by the lengths of its sides."""
        self.longer += chosen > rejected
        self.shorter += chosen < rejected
        self.even += chosen == rejected
        if rejected:
            self.ratio_sum += chosen / rejected
            self.ratios += 1

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.longer + self.shorter + self.even

    @property
    def share(self) -> float:
        """The probability: how often a rule that picks the longer answer is right."""
        return (self.longer + self.even / 2) / self.pairs if self.pairs else 0.5

    def interval(self, *, seed: int = 0) -> tuple[float, float]:
        """A 95 % bootstrap interval of the share.

        Only three outcomes exist, so resampling the pairs is one multinomial draw.
        """
        import numpy as np

        n = self.pairs
        if not n:
            return 0.0, 1.0
        outcomes = [self.longer / n, self.even / n, self.shorter / n]
        draws = np.random.default_rng(seed).multinomial(n, outcomes, size=RESAMPLES)
        low, high = np.quantile((draws[:, 0] + draws[:, 1] / 2) / n, [0.025, 0.975])
        return float(low), float(high)

    def finding(self) -> Finding | None:
        """A warning where the share is outside 0.40 to 0.60 and its interval leaves 0.5 out."""
        if self.pairs < FEW or abs(self.share - 0.5) <= FAIR - 0.5:
            return None
        low, high = self.interval()
        strong = "strong: " if abs(self.share - 0.5) > STRONG - 0.5 else ""
        text = f"{strong}chosen longer in {self.share:.0%} ({low:.0%} to {high:.0%})"
        return Finding("length_bias", "", text) if not low <= 0.5 <= high else None

    def as_json(self) -> dict[str, Any]:
        """Share, interval and mean ratio."""
        return {
            "pairs": self.pairs,
            "chosen_longer": round(self.share, 4),
            "interval": [round(bound, 4) for bound in self.interval()],
            "mean_ratio": round(self.ratio_sum / self.ratios, 3) if self.ratios else None,
        }


class Truncation:
    """What `max_length` cuts off, in batches: the tokenizer is fastest on many texts at once.

    Attributes:
        records, cut: Records seen, and those of which anything was cut.
        tokens, tokens_cut: Tokens of all sides, and those past max_length.
        chosen_cut, rejected_cut: Sides cut; more of one than the other teaches the cut.
        one_cut: Pairs of which one side is cut and the other is not.
        lengths: Records by tokens of their longer side, in steps of 32.
    """

    BATCH = 256

    def __init__(self, renderer: Renderer, max_length: int) -> None:
        self.renderer, self.max_length = renderer, max_length
        self.records = self.cut = self.equal = self.no_room = 0
        self.tokens = self.tokens_cut = 0
        self.chosen_cut = self.rejected_cut = self.one_cut = 0
        self.lengths: Counter[int] = Counter()
        self.bias = LengthBias()
        self._waiting: list[tuple[Where, list[Spoken]]] = []

    def add(self, where: Where, record: Record) -> list[tuple[Where, Finding]]:
        """Count a record; the findings of a whole batch come at once."""
        try:
            sides = list(self.renderer.sequences(record).values())
        except Unusable as error:
            return [(where, Finding("template", "", str(error)))]
        self._waiting.append((where, sides))
        return self.finish() if len(self._waiting) >= self.BATCH else []

    def finish(self) -> list[tuple[Where, Finding]]:
        """Return the findings of the records that are still waiting."""
        waiting, self._waiting = self._waiting, []
        encoded = iter(self.renderer.encode([side for _, sides in waiting for side in sides]))
        return [
            (where, finding)
            for where, sides in waiting
            for finding in self._judged([next(encoded) for _ in sides])
        ]

    def findings(self) -> Iterator[Finding]:
        """What the records seen show together, once all are judged."""
        if self.cut > CUT_SHARE * self.records:
            share = f"{self.cut / self.records:.1%} of the records, "
            lost = f"{self.tokens_cut / self.tokens:.1%} of the tokens past {self.max_length}"
            yield Finding("truncated_share", "", share + lost)
        more = abs(self.rejected_cut - self.chosen_cut)
        if self.one_cut >= FEW and self.one_cut > CUT_SHARE * self.records:
            # of the pairs with one side cut, the side cut more often has (one_cut + more) / 2
            lean = (self.one_cut + more) / 2 / self.one_cut
            side = "rejected" if self.rejected_cut > self.chosen_cut else "chosen"
            if lean >= CUT_LEAN:
                counts = f"rejected {self.rejected_cut}, chosen {self.chosen_cut} times"
                yield Finding("cut_one_side", side, counts)

    def _judged(self, sides: list[Tokens]) -> Iterator[Finding]:
        """Count one record and report what the cut does to it."""
        limit = self.max_length
        ids = [side.ids for side in sides]
        longest = max(map(len, ids))
        self.records += 1
        self.lengths[longest // 32 * 32] += 1
        self.tokens += sum(map(len, ids))
        if len(ids) == 2:
            self.bias.add_lengths(len(ids[0]), len(ids[1]))
        if longest <= limit:
            return
        self.cut += 1
        self.tokens_cut += sum(max(0, len(one) - limit) for one in ids)
        if sides[0].answer >= limit:
            self.no_room += 1
            yield Finding("prompt_truncated", "prompt", f"max_length {limit}")
            return
        yield Finding("truncated", "", f"{longest} tokens, max_length {limit}")
        if len(ids) == 2:
            self.chosen_cut += len(ids[0]) > limit
            self.rejected_cut += len(ids[1]) > limit
            self.one_cut += (len(ids[0]) > limit) != (len(ids[1]) > limit)
            if ids[0][:limit] == ids[1][:limit]:
                self.equal += 1
                yield Finding("equal_once_cut", "", f"max_length {limit}")

    def as_json(self) -> dict[str, Any]:
        """Counts and shares."""
        return {
            "max_length": self.max_length,
            "records": self.records,
            "cut": self.cut,
            "cut_share": round(self.cut / self.records, 4) if self.records else 0.0,
            "tokens_cut_share": round(self.tokens_cut / self.tokens, 4) if self.tokens else 0.0,
            "chosen_cut": self.chosen_cut,
            "rejected_cut": self.rejected_cut,
            "one_side_cut": self.one_cut,
            "prompt_fills": self.no_room,
            "equal_once_cut": self.equal,
        }
