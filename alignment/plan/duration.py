"""How long a stage takes: steps, tokens, operations, and those over a speed."""

import math
from dataclasses import dataclass

from alignment.plan.devices import Speed
from alignment.plan.memory import Memory
from alignment.plan.recipe import StagePlan
from alignment.plan.work import Work


@dataclass(frozen=True, slots=True)
class Duration:
    """Optimizer steps (None: the rows are not known), tokens, operations and seconds of one.

    ``seconds`` are those of all steps; ``source`` says what speed they rest on.
    """

    steps: int | None
    tokens: int
    flops: float
    step_seconds: float | None
    seconds: float | None
    source: str


def estimate_duration(
    plan: StagePlan, work: Work, memory: Memory, speed: Speed | None, *, gpus: int = 1
) -> Duration:
    """Steps and their cost on a number of devices that share the rows.

    Operations: 2 N a token forward (N the weights that multiply), twice that backward, half of it
    where the weights are frozen, the forward once more with checkpointing; causal attention adds
    2 L H T a token and pass (arXiv 2001.08361, section 2.1). Generation counts as one forward.
    """
    tokens = _tokens(plan, work) * gpus
    flops = tokens * _per_token(plan, work, memory)
    steps = _steps(plan, work, gpus)
    if speed is None:
        return Duration(steps, tokens, flops, None, None, "unknown")
    each = flops / (speed.flops * gpus)
    return Duration(steps, tokens, flops, each, each * steps if steps else None, speed.source)


def _tokens(plan: StagePlan, work: Work) -> int:
    """Tokens of an optimizer step of one process, at mean lengths."""
    batch = work.batch
    if work.stage == "ppo":
        return batch.rows * batch.accumulation * batch.length
    if plan.values.get("packing"):
        return batch.rows * batch.length * batch.accumulation
    return int(batch.rows * batch.accumulation * min(plan.lengths.mean, batch.length))


def _per_token(plan: StagePlan, work: Work, memory: Memory) -> float:
    text = work.config.get_text_config()
    table = text.vocab_size * text.hidden_size
    weights = memory.parameters - (0 if text.tie_word_embeddings else table)
    length = work.batch.length if work.stage == "ppo" else plan.lengths.mean
    forward: float = 2 * weights + 2 * work.depth * text.hidden_size * length
    training: float = forward * (3 if work.form == "full" else 2) + forward * work.checkpointing
    if work.stage == "dpo":
        return training + forward * work.reference
    if work.stage != "ppo":
        return training
    passes = 1 if work.critic == "head" else 2
    scoring = passes + work.reference + len(work.rewards) + 1  # old values, reference, generation
    epochs = int(plan.values["num_ppo_epochs"])
    return training * passes + forward * scoring / epochs


def _steps(plan: StagePlan, work: Work, gpus: int) -> int | None:
    values, batch = plan.values, work.batch
    if values["max_steps"] > 0:
        return int(values["max_steps"])
    rows = plan.lengths.rows
    if rows is None:
        return None
    a_step = int(values["per_device_train_batch_size"]) * batch.accumulation * gpus
    if values.get("packing"):
        rows = math.ceil(rows * plan.lengths.mean / (values["max_length"] or 1024))
    if work.stage == "ppo":
        rows *= int(values["num_generations"] * values["num_ppo_epochs"])
    epochs = float(values["num_train_epochs"])
    return max(1, math.ceil(math.ceil(rows / a_step) * epochs))
