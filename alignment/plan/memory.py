"""The memory of a stage by part, of one process and of several, and when its peak is.

The total is the peak of a step: the models and the optimizer's states, and the fullest moment of
what comes and goes. The parts do not all exist at once (gradients grow while activations go), so
the total is at most their sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alignment.plan.models import build_models
from alignment.plan.optimizers import optimizer_need
from alignment.plan.steps import read_memory

if TYPE_CHECKING:
    from alignment.plan.work import Launch, Sharding, Work

#: A CUDA context with its libraries and cuBLAS's workspace; assumed, not measured here.
GPU_CONTEXT = 700 * 2**20
#: Elements of DeepSpeed's bucket for reducing gradients (its default).
_BUCKET = 500_000_000
#: Elements that DeepSpeed's ZeRO-3 steps at once (its default); it copies their gradients.
_SUB_GROUP = 1_000_000_000
_OPTIMIZER_STEP = "optimizer step"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of each part and of the peak.

    Attributes:
        total: The peak.
        phase: When the peak is.
        parameters: Those of the policy without its adapter, a number.
        trained: Those that are trained, a number.
        gathered: Bytes that are whole on each device while weights are sharded.
        phases: Name, bytes and gradients' bytes of each segment's fullest moment.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    kv_cache: int
    reference: int
    critic: int
    rewards: int
    context: int
    total: int
    phase: str
    parameters: int
    trained: int
    gathered: int
    phases: tuple[tuple[str, int, int], ...] = ()


def estimate(work: Work) -> Memory:
    """The memory of one process that trains alone."""
    models = build_models(work)
    held, trained = models.held, models.trained()
    need = optimizer_need(work.optimizer, trained)
    reading = read_memory(work)
    context = GPU_CONTEXT if work.device == "gpu" else 0
    phases = [(name, m.live, m.gradients) for name, m in reading.segments.items()]
    phases.append((_OPTIMIZER_STEP, held.gradients + need.moment, held.gradients))
    phase, peak, _ = max(phases, key=lambda found: found[1])
    stays = held.weights + held.reference + held.critic + held.rewards
    return Memory(
        weights=held.weights,
        gradients=held.gradients,
        optimizer=need.states,
        activations=max(live - gradients for _, live, gradients in phases[:-1]),
        kv_cache=reading.cache,
        reference=held.reference,
        critic=held.critic,
        rewards=held.rewards,
        context=context,
        total=stays + need.states + peak + context,
        phase=phase,
        parameters=models.parameters,
        trained=sum(p.numel() for p in trained),
        gathered=held.gathered,
        phases=tuple(phases),
    )


def launched(memory: Memory, work: Work, launch: Launch) -> Memory:
    """The memory of each process as a recipe is launched; that of one alone if it is unknown."""
    if launch.sharding is None:
        return memory
    return shard(memory, work, gpus=launch.gpus, sharding=launch.sharding)


def shard(memory: Memory, work: Work, *, gpus: int, sharding: Sharding) -> Memory:
    """The memory of each of several processes, derived from what DeepSpeed and FSDP do.

    Plain data parallel holds everything on each device, and its buckets hold the gradients again.
    ZeRO-2 shards gradients and optimizer; ZeRO-3 and FSDP also the weights of policy, reference
    and reward models, and each device gathers what it computes with. With weights of 16 bits
    DeepSpeed keeps float32 copies, sharded with the optimizer, and copies the gradients to float32
    when it steps (FSDP keeps weights, gradients and moments in float32: also 16 bytes a weight).
    """
    if gpus == 1 and sharding == "ddp":
        return memory
    if sharding == "ddp":
        return _total(replace(memory, context=memory.context + memory.gradients), memory)
    is_float = work.dtype == "float32"
    sixteen = work.autocast or not is_float
    bucket = min(_BUCKET, memory.trained) * (2 if sixteen else 4)
    half = 2 if work.autocast and is_float else 1  # DeepSpeed casts the weights
    found = replace(
        memory,
        weights=memory.weights // half,
        gradients=memory.gradients // half // gpus,
        optimizer=(12 * memory.trained if sixteen else memory.optimizer) // gpus,
        context=memory.context + bucket,
    )
    mine = memory.trained // gpus
    moment = 6 * mine if sixteen else 0  # a flat copy, then one in float32
    if sharding == "zero3":
        moment = 4 * min(mine, _SUB_GROUP) if sixteen else 0
        found = replace(
            found,
            weights=found.weights // gpus,
            reference=memory.reference // gpus,
            rewards=memory.rewards // gpus,
            critic=memory.critic // gpus,
            context=found.context + memory.gathered // half,
        )
    return _total(found, memory, moment)


def _total(found: Memory, alone: Memory, moment: int = 0) -> Memory:
    """The peak with the share of gradients that a process keeps."""
    share = found.gradients / max(alone.gradients, 1)
    more = {_OPTIMIZER_STEP: moment}
    peak = max(
        live - int(grad * (1 - share)) + more.get(name, 0) for name, live, grad in alone.phases
    )
    stays = found.weights + found.reference + found.critic + found.rewards
    return replace(found, total=stays + found.optimizer + peak + found.context)
