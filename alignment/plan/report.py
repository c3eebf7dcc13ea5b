"""The estimate of a stage put together: forms, numbers of GPUs, time, and what would fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignment.plan.advice import Change, find_changes
from alignment.plan.devices import Gpu, find_speed
from alignment.plan.duration import Duration, estimate_duration
from alignment.plan.memory import SHARDINGS, Memory, Sharding, estimate, shard
from alignment.plan.recipe import StagePlan
from alignment.plan.work import FORMS, Device, Form, Work


@dataclass(frozen=True, slots=True)
class Machine:
    """What a stage is planned for; ``limit`` are the bytes of one device, None: unknown."""

    device: Device
    gpus: Sequence[Gpu] = ()
    counts: Sequence[int] = (1,)
    limit: int | None = None
    tflops: float | None = None


@dataclass(frozen=True, slots=True)
class StageReport:
    """Everything that is said of a stage."""

    name: str
    model: str
    lengths: str
    device: Device
    work: Work
    memory: Memory
    forms: Mapping[Form, Memory]
    sharded: Mapping[tuple[Sharding, int], Memory]
    counts: Sequence[int]
    durations: Mapping[int, Duration]
    limit: int | None
    changes: Sequence[Change]


def report_stage(plan: StagePlan, machine: Machine) -> StageReport:
    """Estimate a stage in every form, on every number of GPUs."""
    device = machine.device
    work = plan.work(plan.form, device)
    forms: dict[Form, Memory] = {}
    for form in FORMS:
        if form != "qlora" or device == "gpu" or plan.form == "qlora":
            forms[form] = estimate(plan.work(form, device))
    memory = forms[plan.form]
    sharded = {}
    if device == "gpu":
        sharded = {
            (sharding, count): shard(memory, work, gpus=count, sharding=sharding)
            for sharding in SHARDINGS
            for count in machine.counts
        }
    speed = find_speed(machine.tflops, list(machine.gpus), device)
    durations = {
        count: estimate_duration(plan, work, memory, speed, gpus=count) for count in machine.counts
    }
    changes: list[Change] = []
    if machine.limit is not None and memory.total > machine.limit:
        most = max(machine.counts)
        changes = find_changes(plan, device, limit=machine.limit, gpus=most)
    return StageReport(
        name=plan.name,
        model=plan.origin.base,
        lengths=plan.lengths.source,
        device=device,
        work=work,
        memory=memory,
        forms=forms,
        sharded=sharded,
        counts=machine.counts,
        durations=durations,
        limit=machine.limit,
        changes=changes,
    )
