"""Finished rows to preference pairs: marks, choices, what is dropped, and the files of it all."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from alignment.disk import write_text
from alignment.reject.rows import Item
from data_tools.convert.output import dropped_path, json_line, written_whole
from data_tools.formats import is_blank, normalised, plain

#: Likeness of two answers, in per cent, from which on they are nearly equal.
NEAR = 95.0


@dataclass
class Account:
    """What became of the rows.

    Attributes:
        rows_in: Rows read.
        rows_out: Pairs written.
        dropped: Rows of which no pair was written, by reason.
        marked: Pairs that carry a mark, by mark.
        resumed: Rows that an earlier, interrupted run had finished.
        new: Whether this run wrote them; False where all was finished before.
    """

    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    marked: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    new: bool = True


class Dropped(Exception):
    """No pair can be made of a row; the argument is the reason to count by."""


def write_output(
    items: Sequence[Item],
    rows: Mapping[int, Mapping[str, Any]],
    *,
    output: Path,
    keep_equal: bool,
    meta: Mapping[str, Any],
) -> Account:
    """Write pairs in the order of the sources, what was dropped, and how it was made.

    The output appears last, so that where it is, all is.

    Args:
        items: All rows of the sources.
        rows: What was answered, by number; prompts too long to be answered are missing.
        output: The file for the pairs.
        keep_equal: Keep pairs whose sides say the same.
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
        row: Its answers, each with `text` and `finish_reason`, and `scores` where they were scored;
            None where the prompt was too long to be answered.
        keep_equal: Keep a pair whose sides say the same.

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
    marks = likeness(plain(item.chosen), answer["text"])
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
    """The best and the worst of several samples; of equal scores the earlier sample counts."""
    scored = list(zip(row["scores"], row["answers"], strict=True))
    usable = [pair for pair in scored if not is_blank(pair[1]["text"])]
    if len(usable) < 2:
        raise Dropped("empty")
    high, best = max(usable, key=lambda pair: pair[0])
    low, worst = min(usable, key=lambda pair: pair[0])
    marks = likeness(best["text"], worst["text"])
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


def likeness(chosen: str, rejected: str) -> dict[str, bool]:
    """Whether two answers say the same, or nearly: 95 % alike, or one begins with the other.

    Letter case, width and white space do not count.
    """
    one, other = normalised(chosen), normalised(rejected)
    if one == other:
        return {"equal": True, "near_equal": False}
    is_prefix = one.startswith(other) or other.startswith(one)
    return {"equal": False, "near_equal": is_prefix or fuzz.ratio(one, other) >= NEAR}


def meta_path(output: Path) -> Path:
    """Where it stands how an output was made."""
    return output.with_name(output.name + ".meta.json")


def read_account(output: Path, settings: Mapping[str, Any], *, keep_equal: bool) -> Account | None:
    """The account of a finished output, where it was made with these settings; else None."""
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
    """A dropped row with all that was found of it."""
    found: dict[str, Any] = {"reason": reason, "prompt": item.prompt}
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
