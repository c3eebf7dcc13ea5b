"""The estimate of a stage put together: forms, numbers of GPUs, time, and what would fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from alignment.plan.advice import Change, find_changes
from alignment.plan.devices import Machine, find_speed
from alignment.plan.duration import Duration, estimate_duration
from alignment.plan.launched import Launch
from alignment.plan.memory import Memory, estimate, launched, shard
from alignment.plan.models import torch_dtype
from alignment.plan.recipe import StagePlan
from alignment.plan.work import FORMS, SHARDINGS, Device, Form, Sharding, Work


@dataclass(frozen=True, slots=True)
class StageReport:
    """Everything that is said of a stage.

    ``memory`` is that of a process that trains alone, ``total`` the peak of each as launched.
    """

    name: str
    model: str
    lengths: str
    device: Device
    work: Work
    launch: Launch
    memory: Memory
    total: int
    forms: Mapping[Form, Memory]
    sharded: Mapping[tuple[Form, Sharding, int], Memory]
    counts: Sequence[int]
    durations: Mapping[int, Duration]
    limit: int | None
    changes: Sequence[Change]


def report_stage(plan: StagePlan, machine: Machine) -> StageReport:
    """Estimate a stage in every form, on every number of GPUs."""
    device = machine.device
    counts = machine.counts or sorted({1, len(machine.gpus) or 1, plan.launch.gpus})
    works: dict[Form, Work] = {
        form: plan.work(form, device) for form in FORMS if _is_possible(form, plan, device)
    }
    forms = {form: estimate(work) for form, work in works.items()}
    work, memory = works[plan.form], forms[plan.form]
    sharded = {
        (form, sharding, count): shard(found, works[form], gpus=count, sharding=sharding)
        for form, found in forms.items()
        for sharding in SHARDINGS
        for count in counts
        if device == "gpu" and max(counts) > 1
    }
    computes = torch.bfloat16 if work.autocast else torch_dtype(work.dtype, work.config)
    speed = find_speed(machine, computes)
    total = launched(memory, work, plan.launch).total
    changes: list[Change] = []
    if machine.limit is not None and total > machine.limit:
        changes = find_changes(plan, device, limit=machine.limit, gpus=max(counts))
    return StageReport(
        name=plan.name,
        model=plan.origin.base,
        lengths=plan.lengths.source,
        device=device,
        work=work,
        launch=plan.launch,
        memory=memory,
        total=total,
        forms=forms,
        sharded=sharded,
        counts=counts,
        durations={n: estimate_duration(plan, work, memory, speed, gpus=n) for n in counts},
        limit=machine.limit,
        changes=changes,
    )


def _is_possible(form: Form, plan: StagePlan, device: Device) -> bool:
    """Whether a form can be run: QLoRA wants a GPU, and a critic that is an adapter LoRA."""
    if form == "qlora":
        return device == "gpu" or plan.form == "qlora"
    return form != "full" or plan.values.get("critic") != "lora"
