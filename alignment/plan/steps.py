"""The steps of each stage on models without storage: what lives in memory, and when.

The forward, PEFT's adapters, gradient checkpointing and autograd are the real
ones. Only the arithmetic is left out, and the optimizer, which is counted in
`alignment.plan.optimizers`.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from alignment.plan.forward import as_reference, autocast, inputs_of
from alignment.plan.head import add_head
from alignment.plan.ledger import Ledger, Moment, decoder_layers, marked_layers
from alignment.plan.models import Models, at_depth, build_models, largest_frozen, take_shape
from alignment.plan.rollout import roll_out
from alignment.plan.work import Work


@dataclass(frozen=True, slots=True)
class Reading:
    """The fullest moment of every segment of a step, above what the models themselves hold.

    ``cache`` are the bytes of ppo's KV cache at the last token.
    """

    segments: dict[str, Moment]
    cache: int = 0


def read_memory(work: Work) -> Reading:
    """Run the steps of a stage at two depths, from which any depth follows.

    Every layer adds the same, so each segment's peak is linear in the depth; the peak of the whole
    is the largest of those lines.
    """
    if work.depth <= 3:
        return _read(work)
    low, high = (_read(at_depth(work, depth)) for depth in (2, 3))
    return _extrapolate(low, high, work.depth)


def _extrapolate(low: Reading, high: Reading, depth: int) -> Reading:
    def line(a: int, b: int) -> int:
        return a + (depth - 2) * (b - a)

    segments = {
        name: Moment(
            line(moment.live, high.segments[name].live),
            line(moment.gradients, high.segments[name].gradients),
        )
        for name, moment in low.segments.items()
    }
    return Reading(segments, line(low.cache, high.cache))


def _read(work: Work) -> Reading:
    models = build_models(work)
    with FakeTensorMode(), ExitStack() as stack:
        for model in models.every():
            take_shape(model)
        ledger = stack.enter_context(Ledger())
        for model in models.every():
            ledger.leave_out(model)
        cache = _step(work, models, ledger)
        extra = 2 * largest_frozen(models.base) if work.quantized else 0
        segments = {
            name: Moment(moment.live + extra, moment.gradients)
            for name, moment in ledger.segments.items()
        }
        return Reading(segments, cache)


def _step(work: Work, models: Models, ledger: Ledger) -> int:
    """One optimizer step; with accumulation its second batch, where all gradients are there."""
    prepare(work, models)
    cache = 0
    if work.stage == "ppo":
        cache = roll_out(work, models, ledger)
    for turn in range(min(work.batch.accumulation, 2)):
        if turn:
            for name in [name for name in ledger.segments if name.startswith("training")]:
                del ledger.segments[name]
        with marked_layers(ledger, decoder_layers(models.base), "training"):
            with autocast(work):
                loss = _loss(work, models, ledger)
            ledger.mark("training: backward")
            loss.backward()
        del loss
    return cache


def prepare(work: Work, models: Models) -> None:
    """Make the models what the trainers of TRL make of them."""
    from trl.trainer.utils import disable_dropout_in_model

    models.policy.train()
    if not work.drops_out:
        disable_dropout_in_model(models.policy)
    if work.checkpointing:
        keys = dict(work.checkpointing_kwargs) or None
        models.base.activation_checkpointing_enable(activation_checkpointing_kwargs=keys)
        if models.base is not models.policy:
            models.policy.enable_input_require_grads()
    is_gpu = work.device == "gpu"
    if work.stage != "rm":
        add_head(models.base, is_gpu=is_gpu)
    if models.reference is not None:
        add_head(models.reference, is_gpu=is_gpu)
    if work.stage == "ppo":
        from alignment.ppo.forward import add_response_forward

        limit = 0 if is_gpu else None  # on a GPU ppo always goes through the fused head
        add_response_forward(models.base, temperature=1.0, critic=models.critic, max_logits=limit)
        if models.reference is not None:
            add_response_forward(models.reference, temperature=1.0, max_logits=limit)


def _loss(work: Work, models: Models, ledger: Ledger) -> Any:
    batch = work.batch
    inputs = inputs_of(batch.rows, batch.length)
    if work.stage == "ppo":
        entropy = "gradient" if work.entropy_gradient else "value"
        keys = {"response_length": batch.length - batch.prompt, "entropy": entropy}
        output = models.policy(**inputs, with_values=True, **keys)
        loss = output.logps.sum() + output.state_values.sum()
        return loss + output.entropy.sum() if work.entropy_gradient else loss
    if work.stage == "rm":
        return models.policy(**inputs, use_cache=False).logits.sum()
    loss = -models.policy(**inputs, fused_lm_head=True).log_probs.sum()
    if work.stage == "dpo" and work.reference and not work.precomputes_reference:
        ledger.mark("reference")
        with torch.no_grad(), as_reference(models) as reference:
            reference(**inputs, fused_lm_head=True)
    return loss
