"""Finds label shortcuts: cues that separate chosen from rejected without reading the prompt.

A model that is trained on such pairs learns the cue. A cue counts if only one side has it: in how
many pairs, and how often that is the same side.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from data_tools.checks import Finding
from data_tools.formats import Record, plain

REFUSALS = (
    "i cannot",
    "i can't",
    "i can not",
    "i'm sorry",
    "i am sorry",
    "sorry, but",
    "i apologize",
    "i'm unable",
    "i am unable",
    "i'm not able to",
    "i am not able to",
    "i won't",
    "i will not",
    "i must decline",
    "i don't feel comfortable",
    "as an ai",
    "as a language model",
    "as a large language model",
    "i'm just an ai",
    "against my programming",
    "抱歉",
    "对不起",
    "對不起",
    "很遗憾",
    "很遺憾",
    "我无法",
    "我無法",
    "我不能",
    "我没有能力",
    "无法提供",
    "無法提供",
    "无法回答",
    "無法回答",
    "不便回答",
    "我拒绝",
    "我拒絕",
    "恕我",
    "作为ai",
    "作为一个ai",
    "作为一名ai",
    "作为人工智能",
    "作为一个人工智能",
    "作为一名人工智能",
    "作为一个语言模型",
    "作為一個ai",
    "作為人工智能",
    "作為一個語言模型",
    "我是一个ai",
    "我是一个人工智能",
)
"""How answers decline, in English and Chinese; only the beginning of an answer is searched."""
BEGINNING = 100
_REFUSAL = re.compile("|".join(map(re.escape, sorted(REFUSALS, key=len, reverse=True))))
_LIST = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)、])\s*\S", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)

CUES: Mapping[str, Callable[[str], bool]] = {
    "white space around the text": lambda text: text != text.strip(),
    "no final punctuation": lambda text: text.rstrip()[-1:].isalnum(),
    "a question at the end": lambda text: text.rstrip()[-1:] in ("?", "？"),
    "a list": lambda text: _LIST.search(text) is not None,
    "a heading": lambda text: "#" in text and _HEADING.search(text) is not None,
    "bold type": lambda text: "**" in text,
    "a code block": lambda text: "```" in text,
    "several paragraphs": lambda text: "\n\n" in text,
}
MODEL_KEYS = tuple(
    (f"chosen{join}{word}", f"rejected{join}{word}")
    for join in "-_"
    for word in ("model", "source")
)
"""Columns that name the model of a side: `chosen-model`, `rejected_source` and the like."""

# A cue is a shortcut from FEW pairs on, if it is in SHARE of all pairs and there LEAN on one side,
# or if it alone predicts the label in more than FAIR of all pairs.
FEW = 30
SHARE = 0.05
LEAN = 0.80
FAIR = 0.60
KINDS = {
    "refusal": "refusal_shortcut",
    "cue": "cue_shortcut",
    "opening": "template_shortcut",
    "ending": "template_shortcut",
    "model": "model_shortcut",
}
MOST_REPORTED = 3
MOST_KEPT = 20_000
"""Cues that are counted before the rare ones are dropped."""


class Lean(NamedTuple):
    """How often a cue is on one side only.

    Attributes:
        kind, name: The cue.
        chosen, rejected: Pairs in which only this side has it.
        pairs: All pairs.
    """

    kind: str
    name: str
    chosen: int
    rejected: int
    pairs: int

    @property
    def on_one_side(self) -> int:
        """Pairs in which only one side has the cue."""
        return self.chosen + self.rejected

    @property
    def accuracy(self) -> float:
        """How often the cue alone predicts the label; pairs without it count half."""
        return 0.5 + abs(self.chosen - self.rejected) / (2 * self.pairs)

    @property
    def is_shortcut(self) -> bool:
        """Whether the cue is frequent and on one side, or predicts the label often enough."""
        if self.on_one_side < FEW:
            return False
        leans = max(self.chosen, self.rejected) >= LEAN * self.on_one_side
        return (leans and self.on_one_side >= SHARE * self.pairs) or self.accuracy > FAIR

    def __str__(self) -> str:
        side = "chosen" if self.chosen > self.rejected else "rejected"
        most = max(self.chosen, self.rejected) / self.on_one_side
        name = self.name if self.kind in ("refusal", "cue") else f"{self.kind} {self.name!r}"
        share = f"{self.on_one_side / self.pairs:.0%} of the pairs"
        return f"{name}: on one side in {share}, {most:.0%} of these {side}"


class Shortcuts:
    """Counts cues over the pairs of a source.

    Attributes:
        pairs: The number of pairs.
        refusals: Answers that decline, by side.
    """

    def __init__(self) -> None:
        self.pairs = 0
        self.refusals: Counter[str] = Counter()
        self._alone: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, record: Record, data: Mapping[str, Any]) -> None:
        """Count a pair, and the models that its row names."""
        self.pairs += 1
        chosen, rejected = plain(record.chosen), plain(record.rejected)
        for side, text in (("chosen", chosen), ("rejected", rejected)):
            self.refusals[side] += is_refusal(text)
        cues = self._cues(chosen), self._cues(rejected)
        for at, only in enumerate((cues[0] - cues[1], cues[1] - cues[0])):
            for cue in only:
                self._alone[cue][at] += 1
        for keys in MODEL_KEYS:
            models = [data.get(key) for key in keys]
            if models[0] != models[1] and all(isinstance(model, str) for model in models):
                for at, model in enumerate(models):
                    self._alone["model", str(model)[:40]][at] += 1
        # nearly every answer has an opening of its own, so memory would grow with the data
        if len(self._alone) > MOST_KEPT:
            self._forget()

    def leans(self) -> list[Lean]:
        """Return the cues that are shortcuts, the most frequent first."""
        found = [
            Lean(kind, name, chosen, rejected, self.pairs)
            for (kind, name), (chosen, rejected) in self._alone.items()
        ]
        return sorted(
            (one for one in found if one.is_shortcut), key=lambda one: (-one.on_one_side, one[:2])
        )

    def findings(self) -> Iterator[Finding]:
        """Yield one finding per shortcut, at most three of a kind."""
        reported: Counter[str] = Counter()
        for lean in self.leans():
            code = KINDS[lean.kind]
            reported[code] += 1
            if reported[code] <= MOST_REPORTED:
                yield Finding(code, "", str(lean))

    def as_json(self) -> dict[str, Any]:
        """Return the shares of refusals by side, and all shortcuts, as JSON."""
        return {
            "pairs": self.pairs,
            "refusals": {
                side: round(self.refusals[side] / self.pairs, 4) if self.pairs else 0.0
                for side in ("chosen", "rejected")
            },
            "shortcuts": [
                {
                    "code": KINDS[lean.kind],
                    "kind": lean.kind,
                    "cue": lean.name,
                    "only_chosen": lean.chosen,
                    "only_rejected": lean.rejected,
                    "accuracy": round(lean.accuracy, 4),
                }
                for lean in self.leans()
            ],
        }

    def _cues(self, text: str) -> set[tuple[str, str]]:
        found = {("cue", name) for name, shows in CUES.items() if shows(text)}
        if is_refusal(text):
            found.add(("refusal", "a refusal"))
        bare = text.strip().casefold()
        # in a shorter text the opening and the ending would overlap
        if len(bare) > 2 * _reach(bare):
            found |= {("opening", bare[: _reach(bare)]), ("ending", bare[-_reach(bare[-4:]) :])}
        return found

    def _forget(self) -> None:
        """Drop cues that were seen once; one in 5 % of the pairs loses only a few counts."""
        self._alone = defaultdict(
            lambda: [0, 0], {cue: n for cue, n in self._alone.items() if sum(n) > 1}
        )


def is_refusal(text: str) -> bool:
    """Whether an answer declines in its first characters."""
    return _REFUSAL.search(text[:BEGINNING].casefold().replace("’", "'")) is not None


def _reach(text: str) -> int:
    """Return how many characters are an opening: twelve letters, or four if they are Chinese."""
    return 12 if text[:4].isascii() else 4
