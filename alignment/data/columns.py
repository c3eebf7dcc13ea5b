"""What a row becomes for a trainer: token ids and loss masks in columns, and the row's fate.

A stage's facts decide the columns; `COLUMNS` has one entry for each kind of row, so that a kind
that nobody has defined raises a KeyError.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from alignment.registry import Stage
    from data_tools.rendering import Tokens
    from data_tools.shapes import Served

Ids: TypeAlias = list[int]
#: The label of a token that carries no loss; torch's cross-entropy leaves it out.
IGNORED = -100


class Fate(enum.IntFlag):
    """What happens to a row in the trainer; a row may have several fates.

    Attributes:
        CUT: It loses tokens to the limit.
        TOO_LONG: It is over the limit and left out.
        EQUAL: Its two sides are the same tokens.
        EQUAL_ONCE_CUT: Its two sides differ only beyond the limit.
        NO_LOSS: No token that carries loss is left of it, so it is left out.
    """

    KEPT = 0
    CUT = 1
    TOO_LONG = 2
    EQUAL = 4
    EQUAL_ONCE_CUT = 8
    NO_LOSS = 16


LEFT_OUT = Fate.TOO_LONG | Fate.NO_LOSS


@dataclass(frozen=True, slots=True)
class Limits:
    """How many tokens of a row a trainer uses.

    Attributes:
        tokens: The limit; None: no limit. For prompts, what leaves room for a response.
        keeps_end: The end of a long row is kept instead of its start.
        splits: Packing continues a long row in the next block, so nothing is cut.
        vocabulary: Embeddings of the model; None: unknown.
    """

    tokens: int | None = None
    keeps_end: bool = False
    splits: bool = False
    vocabulary: int | None = None

    @property
    def window(self) -> slice:
        """The tokens of a row that are kept."""
        if self.tokens is None or self.splits:
            return slice(None)
        return slice(-self.tokens, None) if self.keeps_end else slice(self.tokens)

    def is_over(self, length: int) -> bool:
        """Whether a row of this length is over the limit."""
        return self.tokens is not None and not self.splits and length > self.tokens


class Encoded(NamedTuple):
    """A row for a trainer.

    Attributes:
        columns: What the trainer reads, by column.
        length: Tokens of its longest side, before any cut.
        fate: What happens to it.
        sides: Its sequences, for the counts of tokens by role.
    """

    columns: dict[str, Any]
    length: int
    fate: Fate
    sides: tuple[Tokens, ...]


def encode(stage: Stage, served: Served, sides: Sequence[Tokens], limits: Limits) -> Encoded:
    """Make the columns of one row from its tokenised sequences.

    Raises:
        Unusable: If the model has no embedding for one of its tokens; `no_embedding`.
    """
    for side in sides:
        side.check_embeddings(limits.vocabulary)
    return COLUMNS[stage.kind](stage, served, sides, limits)


def _supervised(_: Stage, __: Served, sides: Sequence[Tokens], limits: Limits) -> Encoded:
    (tokens,) = sides
    ids = tokens.ids
    first, last, _step = limits.window.indices(len(ids))
    labels = [IGNORED] * len(ids)
    for begin, end in tokens.loss:
        labels[begin:end] = ids[begin:end]
    # the first token of a sequence is predicted from nothing, so its label never counts
    learns = any(max(begin, first + 1) < min(end, last) for begin, end in tokens.loss)
    fate = Fate.CUT if last - first < len(ids) else Fate.KEPT
    if not learns:
        fate |= Fate.NO_LOSS
    columns = {"input_ids": ids[first:last], "labels": labels[first:last]}
    return Encoded(columns, len(ids), fate, (tokens,))


def _pair(stage: Stage, served: Served, sides: Sequence[Tokens], limits: Limits) -> Encoded:
    return (_pair_with_prompt if stage.splits_prompt else _whole_pair)(served, sides, limits)


def _whole_pair(_: Served, sides: Sequence[Tokens], limits: Limits) -> Encoded:
    chosen, rejected = sides
    length = max(len(chosen.ids), len(rejected.ids))
    fate = Fate.TOO_LONG if limits.is_over(length) else Fate.KEPT
    fate |= Fate.EQUAL if chosen.ids == rejected.ids else Fate.KEPT
    columns = {"chosen_ids": chosen.ids, "rejected_ids": rejected.ids}
    return Encoded(columns, length, fate, (chosen, rejected))


def _pair_with_prompt(_: Served, sides: Sequence[Tokens], limits: Limits) -> Encoded:
    chosen, rejected = sides
    # a tokenizer may merge the end of the prompt with the answer, differently on each side
    begin = _common(chosen.ids, rejected.ids, min(chosen.answer, rejected.answer))
    kept = [side.ids[limits.window] for side in sides]
    length = max(len(chosen.ids), len(rejected.ids))
    learns = all(_learns(side, begin, limits) for side in sides)
    is_cut = any(len(k) < len(s.ids) for k, s in zip(kept, sides, strict=True))
    fate = Fate.CUT if is_cut else Fate.KEPT
    if chosen.ids == rejected.ids:
        fate |= Fate.EQUAL
    elif learns and kept[0] == kept[1]:
        fate |= Fate.EQUAL_ONCE_CUT
    fate |= Fate.KEPT if learns else Fate.NO_LOSS
    columns = {
        "prompt_ids": chosen.ids[:begin],
        "chosen_ids": chosen.ids[begin:],
        "rejected_ids": rejected.ids[begin:],
        "chosen_mask": chosen.mask(begin),
        "rejected_mask": rejected.mask(begin),
    }
    return Encoded(columns, length, fate, (chosen, rejected))


def _labelled(_: Stage, served: Served, sides: Sequence[Tokens], limits: Limits) -> Encoded:
    (tokens,) = sides
    begin = tokens.answer
    fate = Fate.CUT if limits.is_over(len(tokens.ids)) else Fate.KEPT
    fate |= Fate.KEPT if _learns(tokens, begin, limits) else Fate.NO_LOSS
    columns = {
        "prompt_ids": tokens.ids[:begin],
        "completion_ids": tokens.ids[begin:],
        "completion_mask": tokens.mask(begin),
        "label": served.record.label,
    }
    return Encoded(columns, len(tokens.ids), fate, (tokens,))


def _prompt(_: Stage, served: Served, sides: Sequence[Tokens], limits: Limits) -> Encoded:
    (tokens,) = sides
    fate = Fate.TOO_LONG if limits.is_over(len(tokens.ids)) else Fate.KEPT
    # Text, since reward functions get the row as it is: Arrow would unify the types of a column
    # over all rows, and turn large integers into floats.
    row = {**served.row.data, "prompt": served.record.prompt}
    columns = {"prompt_ids": tokens.ids, "row": json.dumps(row, ensure_ascii=False, default=str)}
    return Encoded(columns, len(tokens.ids), fate, (tokens,))


COLUMNS: dict[str, Callable[[Stage, Served, Sequence[Tokens], Limits], Encoded]] = {
    "text": _supervised,
    "sft": _supervised,
    "preference": _pair,
    "unpaired": _labelled,
    "prompt": _prompt,
}


def _learns(side: Tokens, answer: int, limits: Limits) -> bool:
    """Whether a token of the answer that carries loss survives the cut."""
    first, last, _ = limits.window.indices(len(side.ids))
    return any(max(begin, first + 1, answer) < min(end, last) for begin, end in side.loss)


def _common(ids: Ids, others: Ids, limit: int) -> int:
    """How many of the first `limit` tokens two sequences share; nearly always all of them."""
    if ids[:limit] == others[:limit]:
        return limit
    pairs: Iterator[tuple[int, tuple[int, int]]] = enumerate(zip(ids, others, strict=False))
    return next(i for i, (one, other) in pairs if one != other)
