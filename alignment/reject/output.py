"""Turn finished rows into preference pairs: choose, mark or drop them, and write the files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidfuzz import fuzz

from alignment.disk import write_text
from data_tools.convert.output import dropped_path, json_line, written_whole
from data_tools.formats import is_blank, normalised, plain

if TYPE_CHECKING:
    from alignment.reject.rows import Item

#: Two answers with at least this similarity, in per cent, are nearly equal.
NEAR_EQUAL = 95.0


@dataclass
class Account:
    """How many rows were written, dropped and marked.

    Attributes:
        rows_in: Rows read.
        rows_out: Pairs written.
        dropped: Rows without a pair, by reason.
        marked: Pairs that carry a mark, by mark.
        resumed: Rows that an earlier, interrupted run had finished.
        unused: Rows with text in a column that is not used, by column.
        encodings: The encodings of files that are not UTF-8.
        new: Whether this run wrote the output; False if an earlier run had finished it.
    """

    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    marked: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    unused: Mapping[str, int] = field(default_factory=dict)
    encodings: Mapping[str, str] = field(default_factory=dict)
    new: bool = True


class Dropped(Exception):
    """A row gives no pair; the argument is the reason under which it is counted."""


def write_output(
    items: Sequence[Item],
    rows: Mapping[int, Mapping[str, Any]],
    *,
    output: Path,
    keep_equal: bool,
    meta: Mapping[str, Any],
) -> Account:
    """Write the pairs in the order of the sources, the dropped rows, and the metadata.

    The output appears last: if it exists, the other files are complete.

    Args:
        items: All rows of the sources.
        rows: Answers by row number; prompts that are too long to answer are missing.
        output: The file for the pairs.
        keep_equal: Keep pairs whose two answers are equal.
        meta: How the answers were made.
    """
    account = Account(rows_in=len(items))
    ledger = dropped_path(output)
    for path in (output, ledger):
        for stale in path.parent.glob(f".{path.name}.*.partial"):
            stale.unlink()
    with written_whole(output) as out:
        with written_whole(ledger) as lost:
            for number, item in enumerate(items):
                try:
                    pair = make_pair(item, rows.get(number), keep_equal=keep_equal)
                except Dropped as why:
                    account.dropped[str(why)] += 1
                    lost.write(json_line(_dropped_row(item, rows.get(number), str(why))))
                    continue
                account.rows_out += 1
                _count_marks(pair, account.marked)
                out.write(json_line(pair))
        if not account.dropped:
            ledger.unlink()
        made = {**meta, "keep_equal": keep_equal, "counts": _counts(account)}
        text = json.dumps(made, ensure_ascii=False, indent=2) + "\n"
        write_text(meta_path(output), text)
    return account


def make_pair(
    item: Item, row: Mapping[str, Any] | None, *, keep_equal: bool = False
) -> dict[str, Any]:
    """The preference pair of one row.

    Args:
        item: The row of the source.
        row: Its answers, each with `text` and `finish_reason`, and `scores` if they were scored.
            None if the prompt was too long to answer.
        keep_equal: Keep a pair whose two answers are equal.

    Raises:
        Dropped: `prompt_too_long`, `empty`, `equal` or `tie`.
    """
    if row is None:
        raise Dropped("prompt_too_long")
    if item.chosen is None:
        return _ranked(item, row)
    (answer,) = row["answers"]
    if is_blank(answer["text"]):
        raise Dropped("empty")
    marks = similarity(plain(item.chosen), answer["text"])
    if marks["equal"] and not keep_equal:
        raise Dropped("equal")
    return {
        "prompt": item.prompt,
        "chosen": item.chosen,
        "rejected": _in_shape(item, answer["text"]),
        **_place(item),
        "finish_reason": answer["finish_reason"],
        **marks,
    }


def _ranked(item: Item, row: Mapping[str, Any]) -> dict[str, Any]:
    """The pair of the best and the worst sample; of two equal scores, the earlier sample wins."""
    scored = list(zip(row["scores"], row["answers"], strict=True))
    usable = [pair for pair in scored if not is_blank(pair[1]["text"])]
    if len(usable) < 2:
        raise Dropped("empty")
    high, best = max(usable, key=lambda pair: pair[0])
    low, worst = min(usable, key=lambda pair: pair[0])
    marks = similarity(best["text"], worst["text"])
    if high == low or marks["equal"]:
        raise Dropped("tie")
    return {
        "prompt": item.prompt,
        "chosen": _in_shape(item, best["text"]),
        "rejected": _in_shape(item, worst["text"]),
        "margin": high - low,
        "score_chosen": high,
        "score_rejected": low,
        **_place(item),
        "chosen_finish_reason": best["finish_reason"],
        "finish_reason": worst["finish_reason"],
        **marks,
    }


def similarity(chosen: str, rejected: str) -> dict[str, bool]:
    """Whether two answers are equal or nearly equal: 95 % similar, or one starts with the other.

    Letter case, character width and white space are ignored.
    """
    one, other = normalised(chosen), normalised(rejected)
    if one == other:
        return {"equal": True, "near_equal": False}
    is_prefix = one.startswith(other) or other.startswith(one)
    return {"equal": False, "near_equal": is_prefix or fuzz.ratio(one, other) >= NEAR_EQUAL}


def meta_path(output: Path) -> Path:
    """The file that records how an output was made."""
    return output.with_name(output.name + ".meta.json")


def read_account(output: Path, settings: Mapping[str, Any], *, keep_equal: bool) -> Account | None:
    """The account of a finished output that was made with these settings; None otherwise."""
    try:
        meta = json.loads(meta_path(output).read_text(encoding="utf-8"))
        made = {key: meta["settings"].get(key) for key in settings}
        if made != settings or meta["keep_equal"] != keep_equal:
            return None
        counts = meta["counts"]
        return Account(
            rows_in=counts["rows_in"],
            rows_out=counts["rows_out"],
            dropped=Counter(counts["dropped"]),
            marked=Counter(counts["marked"]),
            new=False,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _counts(account: Account) -> dict[str, Any]:
    return {
        "rows_in": account.rows_in,
        "rows_out": account.rows_out,
        "dropped": dict(sorted(account.dropped.items())),
        "marked": dict(sorted(account.marked.items())),
    }


def _dropped_row(item: Item, row: Mapping[str, Any] | None, reason: str) -> dict[str, Any]:
    """A dropped row with its reason, answers and scores."""
    found: dict[str, Any] = {"reason": reason, "where": item.where, "prompt": item.prompt}
    if item.chosen is not None:
        found["chosen"] = item.chosen
    if row is not None:
        found["answers"] = row["answers"]
        found |= {"scores": row["scores"]} if "scores" in row else {}
    return found | _place(item)


def _place(item: Item) -> dict[str, Any]:
    return {
        "source": item.source, "source_row": item.source_row, "group_id": item.group_id,
    }  # fmt: skip


def _in_shape(item: Item, text: str) -> Any:
    """An answer in the shape of its prompt."""
    return text if isinstance(item.prompt, str) else [{"role": "assistant", "content": text}]


def _count_marks(pair: Mapping[str, Any], marked: Counter[str]) -> None:
    marked["cut by length"] += pair["finish_reason"] == "length"
    marked["chosen cut by length"] += pair.get("chosen_finish_reason") == "length"
    marked["equal"] += pair["equal"]
    marked["nearly equal"] += pair["near_equal"]
    for name in [name for name, count in marked.items() if not count]:
        del marked[name]
