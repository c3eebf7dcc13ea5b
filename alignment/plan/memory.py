"""The memory of a stage by part, for one process and for several, with what it rests on.

The total is the peak of a step: the models and the optimizer's states, and the fullest moment of
what comes and goes. The parts do not all stand at once (gradients grow while activations go), so
the total is at most their sum.
"""

from dataclasses import dataclass, replace
from typing import Literal

from alignment.plan.ledger import bytes_of, decoder_layers
from alignment.plan.models import build_models
from alignment.plan.optimizers import Need, optimizer_need
from alignment.plan.steps import read_memory
from alignment.plan.work import Work

Sharding = Literal["ddp", "zero2", "zero3"]
SHARDINGS: dict[Sharding, str] = {"ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3 / FSDP"}

#: A CUDA context with its libraries and cuBLAS's workspace; taken for granted, not measured here.
GPU_CONTEXT = 700 * 2**20
#: Elements of DeepSpeed's buckets for reducing and gathering (its default; ZeRO-2 has two).
_BUCKET = 500_000_000


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of each part, and of the peak of all; ``phase`` is when that is."""

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
    largest_layer: int
    trained_bytes: int
    phases: tuple[tuple[str, int, int], ...] = ()


def estimate(work: Work) -> Memory:
    """The memory of one process that trains alone."""
    models = build_models(work)
    held = models.held
    trained = models.trained()
    need = optimizer_need(work.optimizer, trained)
    reading = read_memory(work)
    context = GPU_CONTEXT if work.device == "gpu" else 0
    phases = [(name, m.live, m.gradients) for name, m in reading.segments.items()]
    phases.append(("optimizer step", held["gradients"] + need.moment, held["gradients"]))
    phase, peak, _ = max(phases, key=lambda found: found[1])
    stays = sum(held[name] for name in ("weights", "reference", "critic", "rewards"))
    return Memory(
        weights=held["weights"],
        gradients=held["gradients"],
        optimizer=need.states,
        activations=max(live - gradients for _, live, gradients in phases[:-1]),
        kv_cache=reading.cache,
        reference=held["reference"],
        critic=held["critic"],
        rewards=held["rewards"],
        context=context,
        total=stays + need.states + peak + context,
        phase=phase,
        parameters=models.parameters,
        trained=sum(p.numel() for p in trained),
        largest_layer=max(map(bytes_of, decoder_layers(models.base)), default=0),
        trained_bytes=held["gradients"],
        phases=tuple(phases),
    )


def shard(memory: Memory, work: Work, *, gpus: int, sharding: Sharding) -> Memory:
    """The memory of each of several processes.

    Plain data parallel holds everything on each, and its buckets hold the gradients once more.
    ZeRO-2 shares out gradients and optimizer, ZeRO-3 and FSDP the weights too (of reference and
    reward models as well), of which each gathers two layers at a time. With weights of 16 bits
    DeepSpeed keeps float32 copies, which are shared out with the optimizer. Buckets are at most
    DeepSpeed's default, and no larger than what they carry.
    """
    if gpus == 1 and sharding == "ddp":
        return memory
    if sharding == "ddp":
        return _total(replace(memory, context=memory.context + memory.gradients), memory)
    sixteen = work.autocast or work.dtype != "float32"
    ours = _deepspeed_states(memory) if sixteen else Need(memory.optimizer)
    bucket = min(_BUCKET, memory.trained) * (2 if sixteen else 4)
    halved = work.autocast and work.dtype == "float32"
    weights = memory.weights // 2 if halved else memory.weights
    gradients = memory.gradients // 2 if halved else memory.gradients
    found = replace(
        memory,
        weights=weights,
        gradients=gradients // gpus,
        optimizer=ours.states // gpus,
        context=memory.context + bucket,
    )
    if sharding == "zero3":
        found = replace(
            found,
            weights=weights // gpus,
            reference=memory.reference // gpus,
            rewards=memory.rewards // gpus,
            critic=memory.critic // gpus,
            context=memory.context + 2 * memory.largest_layer + min(bucket, weights // gpus),
        )
    return _total(found, memory)


def _deepspeed_states(memory: Memory) -> Need:
    """A float32 copy of each weight and both moments in float32."""
    return Need(12 * memory.trained)


def _total(found: Memory, alone: Memory) -> Memory:
    """The peak, with the share of gradients that a process keeps."""
    share = found.gradients / max(alone.gradients, 1)
    peak = max(live - int(grad * (1 - share)) for _, live, grad in alone.phases)
    stays = found.weights + found.reference + found.critic + found.rewards
    return replace(found, total=stays + found.optimizer + peak + found.context)
