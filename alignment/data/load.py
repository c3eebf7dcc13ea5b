"""Checked rows to the ``datasets.Dataset`` that a TRL trainer takes."""

import hashlib
import logging
import random
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from alignment.settings.args import DataArgs
from data_tools.shapes import load_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

#: Columns that hold an answer; a string in them becomes an assistant message.
_ANSWERS = ("chosen", "rejected", "completion")


def load_datasets(
    data: DataArgs, *, kind: str, tokenizer: "PreTrainedTokenizerBase", seed: int
) -> tuple[Dataset, Dataset | None]:
    """Training rows and held-out rows (None where none are named).

    Strings become messages wherever the tokenizer has a chat template (or as ``as_chat`` says), so
    that every stage of a pipeline renders a prompt in the same way.
    """
    chat = tokenizer.chat_template is not None if data.as_chat is None else data.as_chat
    if chat and kind != "text":
        logger.info("strings are wrapped as chat messages (as_chat)")
    rows = _rows(data.train_data, data, kind, chat)
    if data.max_rows is not None and data.max_rows < len(rows):
        drawn = sorted(random.Random(seed).sample(range(len(rows)), data.max_rows))
        rows = [rows[number] for number in drawn]
    if data.eval_data:
        return Dataset.from_list(rows), Dataset.from_list(_rows(data.eval_data, data, kind, chat))
    if data.eval_fraction > 0:
        train, held_out = _hold_out(rows, data.eval_fraction, seed)
        return Dataset.from_list(train), Dataset.from_list(held_out) if held_out else None
    return Dataset.from_list(rows), None


def _rows(paths: list[str], data: DataArgs, kind: str, chat: bool) -> list[dict[str, Any]]:
    skip = (
        (lambda _: None) if data.on_bad_row == "drop" else None
    )  # counted in alignment.data.inputs
    rows = [
        row
        for path in paths
        for row in load_records(path, kind=kind, format=data.data_format, on_error=skip)
    ]
    if chat and kind != "text":
        rows = [as_chat(row) for row in rows]
    if kind == "sft":
        rows = _one_shape(rows)
    return rows


def as_chat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its string prompt as a user message and its string answers as the assistant's."""
    wrapped = dict(row)
    if isinstance(row.get("prompt"), str):
        wrapped["prompt"] = [{"role": "user", "content": row["prompt"]}]
    for key in _ANSWERS:
        if isinstance(row.get(key), str):
            wrapped[key] = [{"role": "assistant", "content": row[key]}]
    return wrapped


def _one_shape(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prompt with completion, and messages, do not mix in one table: where both are, messages."""
    if not any("messages" in row for row in rows):
        return rows
    return [
        row if "messages" in row else {"messages": [*row["prompt"], *row["completion"]]}
        for row in (row if "messages" in row else as_chat(row) for row in rows)
    ]


def _hold_out(
    rows: list[dict[str, Any]], fraction: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split by a hash of the prompt, so that a prompt never stands on both sides."""
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for row in rows:
        sides[_share(row, seed) < fraction].append(row)
    return sides


def _share(row: dict[str, Any], seed: int) -> float:
    prompt = row.get("prompt", row.get("text", row.get("messages")))
    digest = hashlib.sha256(f"{seed}\n{prompt!r}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
