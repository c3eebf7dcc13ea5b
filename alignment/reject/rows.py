"""Read the rows to answer from any known format, each with its source file and row number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from alignment.errors import DataError
from data_tools.formats import as_messages, group_id

if TYPE_CHECKING:
    from data_tools.shapes import Served, Sources

Text: TypeAlias = str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Item:
    """One row to answer, in the format of its source; `chosen` is None if samples are ranked.

    `source` and `source_row` are those of the data before its conversion, if it was converted;
    `where` is the place in the file that was read.
    """

    prompt: Text
    chosen: Text | None
    source: str
    source_row: int
    group_id: str
    where: str


def read_items(
    sources: Sources, *, kind: str, limit: int | None = None
) -> tuple[list[Item], dict[str, int]]:
    """All rows of some sources; if one of them is a conversation, all become conversations.

    Args:
        sources: Their files, and how the rows are read.
        kind: `sft` for rows with an answer, which becomes the chosen one; `prompt` for any row.
        limit: Use only the first rows.

    Returns:
        The rows, and how many of them have text in a column that is not used, by column.

    Raises:
        DataError: A row cannot be used.
    """
    found, unused = [], Counter[str]()
    for served in islice(_served(sources, kind), limit):
        found.append(_item(served))
        unused.update(served.unused)
    if all(isinstance(item.prompt, str) for item in found):
        return found, dict(unused)
    return [_as_turns(item) for item in found], dict(unused)


def _as_turns(item: Item) -> Item:
    chosen = None if item.chosen is None else as_messages(item.chosen, "assistant")
    return replace(item, prompt=as_messages(item.prompt, "user"), chosen=chosen)


def _served(sources: Sources, kind: str) -> Iterator[Served]:
    try:
        yield from sources.served(kind)
    except DataError as error:
        remedy = error.remedy or "fix that row, or drop such rows with align data convert"
        if "wanted SFT" in error.message and "plain text" not in error.message:
            remedy = "prompts alone need --num-samples 4 --reward-model FOLDER"
        raise DataError(error.message, remedy) from None


def _item(served: Served) -> Item:
    record, row, _ = served
    prompt: Text = record.prompt
    chosen: Text | None = record.completion if record.kind == "sft" else None
    if record.messages is not None:
        turns = record.messages
        last = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=0)
        prompt, chosen = turns[:last], turns[last : last + 1]
    if not prompt:
        raise DataError(f"{row.where}: there is no prompt before the answer", "")
    source, number = row.data.get("source"), row.data.get("source_row")
    if not (isinstance(source, str) and isinstance(number, int)):
        source, number = Path(row.source).name, row.number
    return Item(prompt, chosen, source, number, group_id(record), row.where)
