"""What to change where a stage does not fit: each change estimated, in the order of its cost."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from alignment.plan.memory import estimate, launched, shard
from alignment.plan.recipe import StagePlan
from alignment.plan.work import Batch, Device, Work

#: More than this many that fit help nobody.
_ENOUGH = 3


@dataclass(frozen=True, slots=True)
class Change:
    """Keys to set, and the peak that follows, in bytes."""

    keys: str
    total: int
    fits: bool


def find_changes(plan: StagePlan, device: Device, *, limit: int, gpus: int) -> list[Change]:
    """Changes one on top of another, until three fit or none is left.

    Args:
        plan: The stage.
        device: Where it runs.
        limit: Bytes that a device has.
        gpus: How many devices there are to shard over.
    """
    found: list[Change] = []
    work = plan.work(plan.form, device)
    now = launched(estimate(work), work, plan.launch).total
    for keys, changed in _candidates(plan, work):
        total = launched(estimate(changed), changed, plan.launch).total
        if total >= now:
            continue  # ppo's sampling, say, does not care for the rows of an update
        found.append(Change(keys, total, total <= limit))
        if sum(change.fits for change in found) >= _ENOUGH:
            return found
    if gpus > 1 and plan.launch.sharding != "zero3":
        total = shard(estimate(work), work, gpus=gpus, sharding="zero3").total
        found.append(Change(f"--accelerate zero3 --nproc {gpus}", total, total <= limit))
    return found


def _candidates(plan: StagePlan, work: Work) -> Iterator[tuple[str, Work]]:
    """Those that change nothing in the result come first."""
    keys: list[str] = []
    if not work.checkpointing:
        work = replace(work, checkpointing=True)
        keys.append("--activation_checkpointing true")
        yield " ".join(keys), work
    rows = plan.values["per_device_train_batch_size"]
    if rows > 1:
        ways = plan.values["gradient_accumulation_steps"] * rows
        work = replace(work, batch=_one_row(work.batch, rows, ways))
        keys.append(f"--per_device_train_batch_size 1 --gradient_accumulation_steps {ways}")
        yield " ".join(keys), work
    if plan.stage == "dpo" and work.form == "full" and not work.precomputes_reference:
        work = replace(work, precomputes_reference=True)
        keys.append("--precompute_ref_log_probs true")
        yield " ".join(keys), work
    yield from _smaller(plan, work, keys)


def _smaller(plan: StagePlan, work: Work, keys: list[str]) -> Iterator[tuple[str, Work]]:
    """Those that change what is learned."""
    base = list(keys)
    if work.form == "full":
        keys = [*base, "--use_peft true"]
        yield " ".join(keys), replace(work, form="lora")
    if work.form != "qlora":
        keys = [*base, "--use_peft true --load_in_4bit true"]
        yield " ".join(keys), replace(work, form="qlora", quantized="4bit")
    if plan.stage == "ppo" and (answer := (work.batch.length - work.batch.prompt) // 2) > 0:
        smallest = replace(work, batch=replace(work.batch, length=work.batch.prompt + answer))
        yield " ".join([*base, f"--max_completion_length {answer}"]), smallest
    elif plan.stage != "ppo" and (length := work.batch.length // 2) > 1:
        smallest = replace(work, batch=replace(work.batch, length=length))
        yield " ".join([*base, f"--max_length {length}"]), smallest


def _one_row(batch: Batch, rows: int, accumulation: int) -> Batch:
    """One row at a time; padding-free rows are one row of that many times the length."""
    if batch.rows < rows:
        return replace(batch, length=batch.length // rows, accumulation=accumulation)
    return replace(batch, rows=batch.rows // rows, accumulation=accumulation)
