"""How long the rows of a stage are, told from a sample of its data by the model's tokenizer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import DataError
from alignment.registry import STAGES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLE = 2000
#: Files whose lines are rows can be counted without being parsed.
_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of rows: the longest and the mean of a sample, the longest prompt, all rows.

    ``source`` says where this is known from. dpo's and rm's rows are their longer side.
    """

    rows: int | None
    longest: int
    mean: float
    prompt: int
    source: str


def measure_rows(
    stage: str, values: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase | None"
) -> Lengths:
    """Lengths of the training rows; where they are not there to read, those of full rows."""
    limit = values.get("max_length")
    paths = [Path(path) for path in values["train_data"]]
    if tokenizer is None or not paths or not all(path.is_file() for path in paths):
        why = "no tokenizer" if paths and tokenizer is None else "the data is not there to read"
        return _unread(stage, limit, why)
    found, count = _sample(stage, values, tokenizer, paths)
    if not found:
        return _unread(stage, limit, "the data has no usable row")
    rows = _count(paths, stage, values, count)
    cut = [_cut(stage, length, limit) for _, length in found]
    kept = [length for length in cut if length] or [limit or 1024]
    prompt = max(prompt for prompt, _ in found)
    source = f"the longest of {len(found):,} rows" + ("" if count < _SAMPLE else ", a sample")
    return Lengths(rows, max(kept), sum(kept) / len(kept), prompt, source)


def _unread(stage: str, limit: int | None, why: str) -> Lengths:
    length = limit or 1024
    return Lengths(None, length, float(length), 512 if stage == "ppo" else 0, f"full rows: {why}")


def _cut(stage: str, length: int, limit: int | None) -> int:
    """What is left of a row; rm leaves those over the limit out."""
    if limit is None or length <= limit:
        return length
    return 0 if stage == "rm" else limit


def _sample(
    stage: str, values: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", paths: list[Path]
) -> tuple[list[tuple[int, int]], int]:
    """Tokens of (prompt, row) for the first rows of each file, and how many rows were read."""
    share = max(1, _SAMPLE // len(paths))
    chat = tokenizer.chat_template is not None
    if values["as_chat"] is not None:
        chat = bool(values["as_chat"])
    read = [row for path in paths for row in islice(_records(path, stage, values), share)]
    found = [_length(row, tokenizer, stage, chat=chat) for row in read]
    return found, len(read)


def _records(path: Path, stage: str, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    from data_tools.shapes import load_records

    skip = (lambda _: None) if values["on_bad_row"] == "drop" else None
    kind = STAGES[stage].kind
    yield from load_records(str(path), kind=kind, format=values["data_format"], on_error=skip)


def _count(paths: list[Path], stage: str, values: Mapping[str, Any], sampled: int) -> int:
    """All rows: those read where that was all, else lines, else one more reading."""
    total = sampled
    if sampled >= max(1, _SAMPLE // len(paths)):
        total = 0
        for path in paths:
            if path.suffix in _LINES:
                with path.open("rb") as file:
                    total += sum(
                        block.count(b"\n") for block in iter(lambda: file.read(2**20), b"")
                    )
            else:
                total += sum(1 for _ in _records(path, stage, values))
    total = int(total * (1 - (values["eval_fraction"] or 0.0)))
    return min(total, values["max_rows"] or total)


def _length(
    row: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", stage: str, *, chat: bool
) -> tuple[int, int]:
    from alignment.data.load import as_chat

    if chat and stage != "pt":
        row = as_chat(row)
    if "text" in row:
        return 0, _tokens(row["text"], tokenizer) + 1
    if "messages" in row:
        return 0, _tokens(row["messages"], tokenizer)
    prompt = row["prompt"]
    opened = _tokens(prompt, tokenizer, opened=True)
    if stage == "ppo":
        return opened, opened
    sides = [row[key] for key in ("completion", "chosen", "rejected") if key in row]
    if not sides:
        raise DataError(f"a row of {stage} has no answer", "see `align data validate`")
    return opened, max(_tokens(prompt + side, tokenizer) for side in sides) + (
        1 if isinstance(prompt, str) else 0
    )


def _tokens(text: Any, tokenizer: Any, *, opened: bool = False) -> int:
    if isinstance(text, str):
        return len(tokenizer(text=text, verbose=False)["input_ids"])
    ids = tokenizer.apply_chat_template(
        text, tokenize=True, return_dict=True, add_generation_prompt=opened
    )
    return len(ids["input_ids"])
