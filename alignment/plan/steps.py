"""The steps of each stage on models without storage: what lives in memory, and when.

The forward, TRL's fused LM head, PEFT's adapters, gradient checkpointing and autograd are the real
ones. Only the arithmetic is left out, and the optimizer, which is counted in
`alignment.plan.optimizers`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from alignment.plan.forward import as_reference, autocast, inputs_of
from alignment.plan.ledger import Ledger, Moment, decoder_layers, marked_layers
from alignment.plan.models import Models, at_depth, build_models, largest_frozen, take_shape
from alignment.plan.rollout import roll_out
from alignment.plan.work import Work

#: What TRL's trainers ask of the fused head beside the log-probabilities.
_OUTPUTS = {
    "dpo": ("log_probs", "entropy", "mean_logits", "is_top1"),
    "ppo": ("log_probs", "entropy"),
}
_SUPERVISED = ("log_probs", "entropy", "is_top1")


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
        stack.enter_context(_kernels_of(work))
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
    from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

    models.policy.train()
    if not work.drops_out:
        disable_dropout_in_model(models.policy)
    if work.checkpointing:
        keys = dict(work.checkpointing_kwargs) or None
        models.base.activation_checkpointing_enable(activation_checkpointing_kwargs=keys)
        if models.base is not models.policy:
            models.policy.enable_input_require_grads()
    if work.stage != "rm":
        add_fused_lm_head(models.base, outputs=_OUTPUTS.get(work.stage, _SUPERVISED))
    if models.reference is not None:
        add_fused_lm_head(models.reference)
    if work.stage == "ppo":
        from alignment.ppo.forward import add_response_forward

        add_response_forward(models.base, temperature=1.0, critic=models.critic)
        if models.reference is not None:
            add_response_forward(models.reference, temperature=1.0)


def _loss(work: Work, models: Models, ledger: Ledger) -> Any:
    batch = work.batch
    inputs = inputs_of(batch.rows, batch.length)
    if work.stage == "ppo":
        entropy = "gradient" if work.entropy_gradient else "value"
        keys = {"response_length": batch.length - batch.prompt, "entropy": entropy}
        output = models.policy(**inputs, with_values=True, **keys)
        return output.logps.sum() + output.state_values.sum() + output.entropy.sum()
    if work.stage == "rm":
        return models.policy(**inputs, use_cache=False).logits.sum()
    labels = inputs["input_ids"]
    loss = -models.policy(**inputs, labels=labels, fused_lm_head=True).log_probs.sum()
    if work.stage == "dpo" and work.reference and not work.precomputes_reference:
        ledger.mark("reference")
        with torch.no_grad(), as_reference(models) as reference:
            reference(**inputs, labels=labels, fused_lm_head=True)
    return loss


@contextmanager
def _kernels_of(work: Work) -> Iterator[None]:
    """Let TRL's fused head take what it takes on the device.

    On a GPU it works in place in a tile that is as wide as is allowed. On a CPU it makes copies of
    its tile, and of a tile wider than the vocabulary the rest is never touched, so never resident.
    """
    from trl.kernels import chunked_logprob as kernels
    from trl.trainer import utils as head

    from alignment.ppo import forward

    before = kernels._forward_tile, kernels._backward_tile, head._CHUNKED_LOGPROB_CHUNK_SIZE
    most = forward._MAX_LOGITS
    if work.device == "gpu":
        kernels._forward_tile = kernels._backward_tile = lambda *args, **keys: None
        forward._MAX_LOGITS = 0  # where there is a GPU, ppo always goes through the fused head
    else:
        vocabulary = work.config.get_text_config().vocab_size
        head._CHUNKED_LOGPROB_CHUNK_SIZE = min(vocabulary, before[-1])
    try:
        yield
    finally:
        kernels._forward_tile, kernels._backward_tile, head._CHUNKED_LOGPROB_CHUNK_SIZE = before
        forward._MAX_LOGITS = most
