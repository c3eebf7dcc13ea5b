"""What the trainer will make of its rows, counted before a model is loaded.

The counts come from the prepared rows, so they are what the trainer gets. What is done with a long
row differs by stage: its tokens are cut, it is left out, or the run is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alignment.data.columns import LEFT_OUT, Fate
from alignment.errors import DataError

if TYPE_CHECKING:
    from alignment.registry import Stage

#: If a larger share of the rows is over the limit, it is worth a warning.
_MANY = 0.01


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows share each fate; a row may have several.

    Attributes:
        limit: `max_length`; for prompts, the tokens that leave room for a response. None: no limit.
        rows: All of them.
        kept: Rows that the trainer trains on.
        learnable: Rows of those that are no equal pair.
        cut: Rows that lose tokens to the limit.
        too_long: Rows that are over the limit and left out.
        equal: Pairs whose two sides are the same tokens.
        equal_once_cut: Pairs whose two sides differ only beyond the limit.
        no_loss: Rows of which no token that carries loss is left.
        longest: Tokens of the longest side of all.
        first_too_long: The first row that is left out for its length, from 1; None: there is none.
        beyond_positions: Rows that, after the cut, have more tokens than the model has positions.
    """

    limit: int | None
    rows: int
    kept: int
    learnable: int
    cut: int
    too_long: int
    equal: int
    equal_once_cut: int
    no_loss: int
    longest: int
    first_too_long: int | None
    beyond_positions: int = 0

    def as_json(self) -> dict[str, Any]:
        """The counts for a run's record."""
        return asdict(self)


def count_rows(
    fates: npt.NDArray[np.uint8],
    lengths: npt.NDArray[np.int32],
    *,
    limit: int | None,
    positions: int | None = None,
    splits: bool = False,
) -> Counts:
    """Count the fates of rows, `(N,)`, and find the longest, `(N,)` tokens.

    If packing splits rows, they are read in blocks of `limit` tokens.
    """

    def number(fate: Fate) -> int:
        return int(np.count_nonzero(fates & fate))

    kept = (fates & LEFT_OUT) == 0
    too_long = np.flatnonzero(fates & Fate.TOO_LONG)
    used = lengths if limit is None else np.minimum(lengths, limit)
    if splits and limit is not None:
        used = np.full_like(lengths, min(limit, int(lengths.sum())))
    return Counts(
        limit=limit,
        rows=len(fates),
        kept=int(np.count_nonzero(kept)),
        learnable=int(np.count_nonzero(kept & (fates & (Fate.EQUAL | Fate.EQUAL_ONCE_CUT) == 0))),
        cut=number(Fate.CUT),
        too_long=len(too_long),
        equal=number(Fate.EQUAL),
        equal_once_cut=number(Fate.EQUAL_ONCE_CUT),
        no_loss=number(Fate.NO_LOSS),
        longest=int(lengths.max(initial=0)),
        first_too_long=int(too_long[0]) + 1 if len(too_long) else None,
        beyond_positions=0 if positions is None else int(np.count_nonzero(used[kept] > positions)),
    )


def describe(stage: Stage, counts: Counts) -> str:
    """One line of the counts that matter to a stage."""
    parts = [f"{counts.rows:,} rows", f"{counts.kept:,} kept"]
    limit = "" if counts.limit is None else f"{counts.limit:,} tokens"
    if stage.long_rows == "cut":
        parts.append(f"{counts.cut:,} cut" + (f" at {limit}" if limit else ""))
    else:
        parts.append(f"{counts.too_long:,} too long" + (f" for {limit}" if limit else ""))
    if stage.kind == "preference":
        parts.append(f"{counts.equal:,} equal pairs")
        if stage.long_rows == "cut":
            parts.append(f"{counts.equal_once_cut:,} equal once cut")
    if stage.long_rows == "cut":
        parts.append(f"{counts.no_loss:,} no-loss rows")
    return ", ".join(parts)


def describe_loss(by_role: Mapping[str, int], learned: int, *, everything: bool) -> str:
    """One line of the share of tokens that carry loss, by the role that wrote them."""
    total = sum(by_role.values())
    shares = []
    for role, number in sorted(by_role.items()):
        carrying = number if everything else 0
        if role in ("assistant", "text"):  # all that carries none is in turns of weight 0
            carrying = number - (total - learned) if everything else learned
        if number > 0:
            shares.append(f"{role} {min(carrying, number) / number:.0%}")
    return f"{learned / max(total, 1):.0%} of {total:,} tokens carry loss ({', '.join(shares)})"


def refuse(
    stage: Stage,
    name: str,
    counts: Counts,
    *,
    values: Mapping[str, Any],
    positions: int | None = None,
    first: str = "",
) -> None:
    """Stop if training could only waste time.

    Args:
        stage: The stage.
        name: The role of the rows, in words.
        counts: What the trainer makes of them.
        values: The settings.
        positions: Tokens that the model can place.
        first: The place of the first row that is too long.

    Raises:
        DataError: nothing is left to learn from, a row is longer than what the model can read, or
            a prompt leaves no room for an answer and ``on_bad_row`` is raise.
    """
    drops = values["on_bad_row"] == "drop"
    if counts.beyond_positions:
        raise DataError(
            f"{name} data: {counts.beyond_positions:,} of {counts.rows:,} rows have more tokens "
            f"than the model has positions ({positions:,}); the longest has {counts.longest:,}",
            f"set max_length: {positions}, or scale the model's positions in its config.json",
        )
    if stage.long_rows == "refuse" and counts.too_long and not drops:
        raise DataError(
            f"{name} data: {counts.too_long} of {counts.rows} prompts leave no room for "
            f"{values['max_completion_length']} new tokens, the first of them {first}; the "
            f"longest has {counts.longest} tokens, {counts.limit} fit",
            "leave such prompts out: --on_bad_row drop, or lower max_completion_length",
        )
    losses = values.get("loss_type") or []
    learns_answers = any(loss in losses for loss in stage.answer_losses)
    # a loss on the chosen answer learns from equal pairs too, a preference does not
    if counts.kept if learns_answers else counts.learnable:
        return
    change = "raise" if stage.length_key == "max_length" else "lower"
    raise DataError(
        f"{name} data: nothing is left to learn: {describe(stage, counts)}",
        "chosen and rejected must differ; see `align data validate`"
        if counts.equal == counts.rows
        else f"{change} {stage.length_key}: the longest row has {counts.longest} tokens",
    )


def warnings(stage: Stage, name: str, counts: Counts) -> Iterator[str]:
    """Lines about rows that are lost."""
    over = counts.cut + counts.too_long
    if over > _MANY * counts.rows:
        what = "left out" if counts.too_long else "cut"
        limit = f"max_length {counts.limit}"
        if stage.samples:
            limit = f"{counts.limit} prompt tokens"
        yield (
            f"warning: {over / counts.rows:.1%} of the {name} rows are {what} at {limit}; the "
            f"longest has {counts.longest} tokens"
        )
