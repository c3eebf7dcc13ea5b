"""How long a stage takes: steps, tokens, operations, and those divided by a device's speed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.plan.speed import find_speed

if TYPE_CHECKING:
    from alignment.plan.recipe import StagePlan
    from alignment.plan.work import Machine, Work


@dataclass(frozen=True, slots=True)
class Duration:
    """The cost of a stage in time.

    Attributes:
        steps: Optimizer steps; None: the number of rows is unknown.
        tokens: Of one step, on all devices.
        flops: Operations of one step, on all devices.
        step_seconds: Of one step; None: the speed is unknown.
        seconds: Of all steps.
        source: How the speed is known.
    """

    steps: int | None
    tokens: int
    flops: float
    step_seconds: float | None
    seconds: float | None
    source: str


def estimate_duration(
    plan: StagePlan, work: Work, parameters: int, machine: Machine, *, gpus: int = 1
) -> Duration:
    """Steps and their cost on a number of devices that share the rows.

    Operations: 2 N for each token forward (N the weights that multiply), twice that backward, half
    of it if the weights are frozen, the forward again with checkpointing; causal attention adds
    2 L H T for each token and pass (arXiv 2001.08361, section 2.1). Generation counts as one
    forward.
    """
    tokens = _tokens(plan, work) * gpus
    flops = tokens * _per_token(plan, work, parameters)
    steps = _steps(plan, work, gpus)
    speed = find_speed(machine, "bfloat16" if work.autocast else work.dtype)
    if speed is None:
        return Duration(steps, tokens, flops, None, None, "unknown")
    each = flops / (speed.flops * gpus)
    return Duration(steps, tokens, flops, each, each * steps if steps else None, speed.source)


def _tokens(plan: StagePlan, work: Work) -> int:
    """Tokens of an optimizer step of one process, at mean lengths."""
    batch = work.batch
    if work.stage.samples or plan.values.get("packing"):
        return batch.rows * batch.accumulation * batch.length
    # not the batch's own rows: they can be joined into one sequence
    rows = int(plan.values["per_device_train_batch_size"]) * work.stage.rows_per_example
    return int(rows * batch.accumulation * plan.lengths.mean)


def _per_token(plan: StagePlan, work: Work, parameters: int) -> float:
    stage, text = work.stage, work.config.get_text_config()
    table = text.vocab_size * text.hidden_size
    weights = parameters - (0 if text.tie_word_embeddings else table)
    length = work.batch.length if stage.samples else plan.lengths.mean
    forward: float = 2 * weights + 2 * work.depth * text.hidden_size * length
    training: float = forward * (3 if work.form == "full" else 2) + forward * work.checkpointing
    passes = 2 if stage.critic and work.critic != "head" else 1  # policy, and a critic's own trunk
    without_gradient = work.reference + stage.unmatched_passes * (1 + work.reference)
    if not stage.samples:
        return training * passes + forward * without_gradient
    # generation, old log-probabilities and values, rewards: once for all epochs of a rollout
    without_gradient += 1 + passes + len(work.rewards)
    return training * passes + forward * without_gradient / int(plan.values["num_ppo_epochs"])


def _steps(plan: StagePlan, work: Work, gpus: int) -> int | None:
    values = plan.values
    if values["max_steps"] > 0:
        return int(values["max_steps"])
    rows = plan.lengths.rows
    if rows is None:
        return None
    a_step = int(values["per_device_train_batch_size"]) * work.batch.accumulation * gpus
    if values.get("packing"):
        rows = math.ceil(rows * plan.lengths.mean / (values["max_length"] or plan.lengths.longest))
    if work.stage.samples:
        rows *= int(values["num_generations"] * values["num_ppo_epochs"])
    epochs = float(values["num_train_epochs"])
    return max(1, math.ceil(math.ceil(rows / a_step) * epochs))
