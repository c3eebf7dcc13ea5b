"""Read the rows to answer from any known format, each with its source file and row number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from alignment.errors import DataError
from data_tools.formats import Example, Record, as_messages, examples, group_id
from data_tools.shapes import load_records

Text: TypeAlias = str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Item:
    """One row to answer, in the format of its source; `chosen` is None if samples are ranked."""

    prompt: Text
    chosen: Text | None
    source: str
    source_row: int
    group_id: str


def read_items(
    files: Sequence[Path], *, kind: str, format: str | None = None, limit: int | None = None
) -> list[Item]:
    """All rows of some files; if one of them is a conversation, all become conversations.

    Args:
        files: Data files.
        kind: `sft` for rows with an answer, which becomes the chosen one; `prompt` for any row.
        format: Name of their format. Default: detected for each row.
        limit: Use only the first rows.

    Raises:
        DataError: A row cannot be used.
    """
    every = (item for file in files for item in _read(file, kind, format))
    found = list(islice(every, limit))
    if all(isinstance(item.prompt, str) for item in found):
        return found
    return [
        Item(
            as_messages(item.prompt, "user"),
            None if item.chosen is None else as_messages(item.chosen, "assistant"),
            item.source,
            item.source_row,
            item.group_id,
        )
        for item in found
    ]


def _read(file: Path, kind: str, format: str | None) -> Iterator[Item]:
    rows = load_records(file, kind=kind, format=format)
    places = examples(file, format=format)
    while True:
        try:
            row = next(rows, None)
        except DataError as error:
            remedy = error.remedy or "fix that row, or drop such rows with align data convert"
            if "--columns" in remedy:
                remedy += ": an option of `align data convert`"
            if "wanted SFT" in error.message:
                remedy = "prompts alone need --num-samples 4 --reward-model FOLDER"
            raise DataError(error.message, remedy) from None
        if row is None:
            return
        # `rows` stops at the first row without an example, so both iterators stay in step
        yield _item(row, next(places), kind)


def _item(row: dict[str, Any], example: Example, kind: str) -> Item:
    data, record = example.row.data, example.record
    assert isinstance(record, Record)
    prompt = row.get("prompt")
    chosen = row.get("completion") if kind == "sft" else None  # `prompt` passes other keys on
    if "messages" in row and prompt is None:
        turns = row["messages"]
        last = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=0)
        prompt, chosen = turns[:last], turns[last : last + 1]
    if not prompt:
        raise DataError(f"{example.row.where}: there is no prompt before the answer", "")
    source, number = data.get("source"), data.get("source_row")
    if not (isinstance(source, str) and isinstance(number, int)):
        source, number = Path(example.row.source).name, example.row.number
    return Item(prompt, chosen, source, number, group_id(record))
