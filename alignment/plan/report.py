"""The estimate of a stage put together: forms, numbers of GPUs, time, and changes that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alignment.plan.duration import Duration, estimate_duration
from alignment.plan.memory import Memory, estimate, launched, shard
from alignment.plan.work import (
    FORMS,
    SHARDINGS,
    Batch,
    Device,
    Form,
    Launch,
    Machine,
    Work,
)
from alignment.settings.strategies import works_with

if TYPE_CHECKING:
    from alignment.plan.recipe import StagePlan

#: Changes that fit; more of them help nobody.
_ENOUGH = 3


@dataclass(frozen=True, slots=True)
class Change:
    """Keys to set, and the peak that follows, in bytes."""

    keys: str
    total: int
    fits: bool


@dataclass(frozen=True, slots=True)
class StageReport:
    """Everything that is printed about a stage.

    Attributes:
        name: Of the stage in its pipeline.
        model: The whole model that it starts from.
        lengths: How the lengths of rows are known.
        work: The work as the recipe has it.
        launch: How the recipe is launched.
        memory: Of a process that trains alone.
        total: The peak of each process as launched.
        forms: The same in every form that can run.
        sharded: The same on several GPUs, by form, sharding and number.
        counts: Numbers of devices.
        durations: Time, by number of devices.
        limit: Bytes of one device; None: unknown.
        changes: What would make it fit.
    """

    name: str
    model: str
    lengths: str
    work: Work
    launch: Launch
    memory: Memory
    total: int
    forms: Mapping[Form, Memory]
    sharded: Mapping[tuple[str, str, int], Memory]
    counts: Sequence[int]
    durations: Mapping[int, Duration]
    limit: int | None
    changes: Sequence[Change]

    @property
    def fits(self) -> bool | None:
        """Whether the recipe fits; None: the limit is unknown."""
        return None if self.limit is None else self.total <= self.limit


def report_stage(plan: StagePlan, machine: Machine) -> StageReport:
    """Estimate a stage in every form, on every number of GPUs."""
    device, limit = machine.device, machine.limit
    counts = machine.counts or sorted({1, len(machine.gpus) or 1, plan.launch.gpus})
    works = {form: plan.work(form, device) for form in FORMS if _can_run(form, plan, device)}
    forms = {form: estimate(work) for form, work in works.items()}
    work, memory = works[plan.form], forms[plan.form]
    several = counts if device == "gpu" and max(counts) > 1 else ()
    total = launched(memory, work, plan.launch).total
    return StageReport(
        name=plan.name,
        model=plan.origin.base,
        lengths=plan.lengths.source,
        work=work,
        launch=plan.launch,
        memory=memory,
        total=total,
        forms=forms,
        sharded={
            (form, sharding, count): shard(found, works[form], gpus=count, sharding=sharding)
            for form, found in forms.items()
            for sharding in SHARDINGS
            if works_with(plan.stage, plan.values, sharding)
            for count in several
        },
        counts=counts,
        durations={
            n: estimate_duration(plan, work, memory.parameters, machine, gpus=n) for n in counts
        },
        limit=limit,
        changes=[] if limit is None or total <= limit else find_changes(plan, machine, max(counts)),
    )


def _can_run(form: Form, plan: StagePlan, device: Device) -> bool:
    """QLoRA needs a GPU, and a critic that is an adapter needs a policy that is one.

    The recipe's own form is tried in any case: if it cannot be, the error says why.
    """
    if form == "qlora":
        return device == "gpu" or plan.form == "qlora"
    return form == plan.form or form != "full" or plan.values.get("critic") != "lora"


def find_changes(plan: StagePlan, machine: Machine, gpus: int) -> list[Change]:
    """Changes added one by one, in the order of what they cost, until three fit.

    Args:
        plan: The stage.
        machine: Where it runs, with its limit.
        gpus: How many devices there are to shard over.
    """
    found: list[Change] = []
    work, limit = plan.work(plan.form, machine.device), machine.limit or 0
    now = launched(estimate(work), work, plan.launch).total
    for keys, changed in _candidates(plan, work):
        total = launched(estimate(changed), changed, plan.launch).total
        if total >= now:
            continue  # the peak is elsewhere: ppo's sampling, say, ignores the rows of an update
        found.append(Change(keys, total, total <= limit))
        if sum(change.fits for change in found) >= _ENOUGH:
            return found
    if gpus > 1 and plan.launch.sharding != "zero3":
        total = shard(estimate(work), work, gpus=gpus, sharding="zero3").total
        found.append(Change(f"--accelerate zero3 --nproc {gpus}", total, total <= limit))
    return found


def _candidates(plan: StagePlan, work: Work) -> Iterator[tuple[str, Work]]:
    """First those that leave the result the same."""
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
    can_precompute = "precompute_ref_log_probs" in plan.values and work.reference
    if can_precompute and work.form == "full" and not work.precomputes_reference:
        work = replace(work, precomputes_reference=True)
        keys.append("--precompute_ref_log_probs true")
        yield " ".join(keys), work
    yield from _smaller(work, keys)


def _smaller(work: Work, keys: list[str]) -> Iterator[tuple[str, Work]]:
    """Then those that change what is learned."""
    base = list(keys)
    if work.form == "full":
        keys = [*base, "--use_peft true"]
        yield " ".join(keys), replace(work, form="lora")
    if work.form != "qlora":
        keys = [*base, "--use_peft true --load_in_4bit true"]
        yield " ".join(keys), replace(work, form="qlora", quantized="4bit")
    batch = work.batch
    half = (batch.length - batch.prompt) // 2
    if half > 1:
        shorter = replace(work, batch=replace(batch, length=batch.prompt + half))
        yield " ".join([*base, f"--{work.stage.length_key} {half}"]), shorter


def _one_row(batch: Batch, rows: int, accumulation: int) -> Batch:
    """One row at a time; rows that are joined are one row of that many times the length."""
    if batch.rows < rows:
        return replace(batch, length=batch.length // rows, accumulation=accumulation)
    return replace(batch, rows=batch.rows // rows, accumulation=accumulation)
