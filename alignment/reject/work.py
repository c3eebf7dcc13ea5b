"""Load the model, answer the missing rows batch by batch, then write the output.

Several processes share the batches; each has the full model and its own part file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from alignment.errors import ConfigError, DataError
from alignment.evaluate.generation import batches_by_length, encode_prompts
from alignment.evaluate.progress import counting_progress
from alignment.models.device import describe_device
from alignment.models.folders import hub_commit, load_padding_tokenizer
from alignment.processes import rank
from alignment.reject.engines import Engine, load_engine
from alignment.reject.output import Account, write_output
from alignment.reject.scores import Scores, load_scores

if TYPE_CHECKING:
    from alignment.reject.plan import Plan
    from alignment.reject.rows import Text

#: Processes only wait for each other to finish their batches, which may take days.
_BARRIER_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Batch:
    """Rows that are answered together; the seed depends on the number of the batch."""

    number: int
    rows: list[int]


def work(plan: Plan) -> Account | None:
    """Execute a checked plan; returns the account in the main process, None in the others.

    Raises:
        ConfigError: Existing parts were made on another device, the model or the reward model
            cannot be used, or a batch does not fit into memory.
        DataError: Every prompt is too long for the model.
    """
    with _together() as wait:
        plan = _identified(plan)
        tokenizer = load_padding_tokenizer(plan.model)
        asked = [_asked(item.prompt, as_chat=plan.as_chat) for item in plan.items]
        prompt_ids, positions = encode_prompts(tokenizer, asked, name=plan.model, path=plan.model)
        plan = replace(plan, context=positions)
        batches = _plan_batches(plan, prompt_ids)
        if rank() == 0:
            _make_room(plan)
        wait()
        done = plan.parts.rows()
        wait()
        todo = [batch for batch in batches if batch.rows[0] not in done][rank() :: _world()]
        if todo:
            scores = load_scores(plan, tokenizer)
            engine = load_engine(plan, tokenizer)
            _answer(plan, todo, engine, scores, asked, prompt_ids)
        wait()
        if rank() != 0:
            return None
        account = write_output(
            plan.items,
            plan.parts.rows(),
            output=plan.output,
            keep_equal=plan.options.keep_equal,
            meta={**plan.meta, "settings": plan.settings},
        )
        account.resumed = len(done)
        account.unused, account.encodings = plan.unused, plan.encodings
        plan.parts.delete()
        return account


def _answer(
    plan: Plan,
    todo: list[Batch],
    engine: Engine,
    scores: Scores | None,
    asked: Sequence[Text],
    prompt_ids: Sequence[list[int]],
) -> None:
    """Answer batches one after the other, and write each to disk before the next."""
    total = sum(len(batch.rows) for batch in todo)
    with (
        plan.parts.appending(rank(), plan.settings) as part,
        _progress(total) as advance,
    ):
        for batch in todo:
            try:
                answers = engine(
                    [prompt_ids[row] for row in batch.rows],
                    [_seed(plan.options.seed, batch.number, row) for row in batch.rows],
                )
            except torch.OutOfMemoryError as error:
                raise ConfigError(
                    f"batch_size: {plan.batch_size} answers per batch do not fit into memory",
                    "lower --batch-size, and start again with --overwrite",
                ) from error
            rows: list[dict[str, Any]] = [
                {"row": row, "answers": found}
                for row, found in zip(batch.rows, answers, strict=True)
            ]
            if scores is not None:
                texts = [[answer["text"] for answer in found] for found in answers]
                found_scores = scores([asked[row] for row in batch.rows], texts)
                rows = [{**row, "scores": s} for row, s in zip(rows, found_scores, strict=True)]
            part.add(batch.number, rows)
            advance(len(rows))


def _identified(plan: Plan) -> Plan:
    """The plan with the device and the commit of the model.

    Raises:
        ConfigError: Existing parts were made on another device.
    """
    settings = {**plan.settings, "device": describe_device()}
    if not plan.options.overwrite:
        plan.parts.refuse_others(settings)
    meta: dict[str, Any] = {**plan.meta, "revision": hub_commit(plan.model)}
    return replace(plan, settings=settings, meta=meta)


def _plan_batches(plan: Plan, prompt_ids: Sequence[list[int]]) -> list[Batch]:
    """All batches, longest prompts first, without prompts that leave no room for an answer."""
    room = None if plan.context is None else plan.context - plan.options.max_new_tokens
    fitting = [row for row, ids in enumerate(prompt_ids) if room is None or len(ids) <= room]
    if not fitting:
        raise DataError(
            f"all {len(prompt_ids)} prompts and {plan.options.max_new_tokens} new tokens exceed "
            f"the maximum length of {plan.model}, {plan.context}",
            "lower --max-new-tokens",
        )
    size = max(1, plan.batch_size // plan.options.num_samples)
    lengths = [len(prompt_ids[row]) for row in fitting]
    planned = enumerate(batches_by_length(lengths, size))
    return [Batch(number, [fitting[i] for i in rows]) for number, rows in planned]


def _make_room(plan: Plan) -> None:
    if plan.options.overwrite:
        plan.output.unlink(missing_ok=True)
        plan.parts.delete()


def _asked(prompt: Text, *, as_chat: bool) -> Text:
    """A prompt as the stages would give it to the model."""
    if as_chat and isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return prompt


def _seed(*parts: int) -> int:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def _together() -> Iterator[Callable[[], None]]:
    """Join the process group; yields its barrier. A process uses the GPU of its local rank."""
    if _world() == 1:
        yield lambda: None
        return
    import torch.distributed as dist

    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo", timeout=_BARRIER_TIMEOUT)
    try:
        yield dist.barrier
    finally:
        dist.destroy_process_group()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with the remaining time, shown by the main process for its own batches."""
    share = "" if _world() == 1 else f" (process 1 of {_world()})"
    with counting_progress(shown=rank() == 0) as progress:
        task = progress.add_task(f"answers{share}", total=total)
        yield lambda rows: progress.advance(task, rows)
