"""The steps of each stage on models without storage: what is in memory, and when.

The forward, PEFT's adapters, activation checkpointing and autograd are the real ones. The
arithmetic is left out, the fused LM head is counted in `alignment.plan.head`, and the optimizer in
`alignment.plan.optimizers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from alignment.models.renamed import cache_word
from alignment.plan.head import add_head
from alignment.plan.ledger import Ledger, Moment, marked_layers
from alignment.plan.models import Models, at_depth, build_models, take_shape
from alignment.ppo.forward import add_response_forward
from alignment.ppo.reward_models import SCORED_ROWS

if TYPE_CHECKING:
    from alignment.plan.work import Work


@dataclass(frozen=True, slots=True)
class Reading:
    """The fullest moment of each segment of a step, without what the models themselves hold.

    ``cache`` is the KV cache of a stage that samples, in bytes at the last token.
    """

    segments: dict[str, Moment]
    cache: int = 0


def read_memory(work: Work) -> Reading:
    """Run the steps of a stage at two depths, which give those of any depth.

    Every layer adds the same, so each segment's peak is linear in the depth; the peak of the whole
    is the largest of those lines.
    """
    if work.depth <= 3:
        return run_step(work)
    low, high = (run_step(at_depth(work, depth)) for depth in (2, 3))

    def line(a: int, b: int) -> int:
        return a + (work.depth - 2) * (b - a)

    segments = {
        name: Moment(
            line(moment.live, high.segments[name].live),
            line(moment.gradients, high.segments[name].gradients),
        )
        for name, moment in low.segments.items()
    }
    return Reading(segments, line(low.cache, high.cache))


def run_step(work: Work) -> Reading:
    """Run one optimizer step, with what a stage samples for it before."""
    models = build_models(work)
    with FakeTensorMode():
        for model in models.every():
            take_shape(model)
        with Ledger() as ledger:
            for model in models.every():
                ledger.leave_out(model)
            step = _Step(work, models, ledger)
            step.prepare()
            cache = step.sample() if work.stage.samples else 0
            step.train()
    segments = {
        name: Moment(moment.live + models.held.dequantized, moment.gradients)
        for name, moment in ledger.segments.items()
    }
    return Reading(segments, cache)


class _Step:
    """One optimizer step of a stage: the models as their trainer changes them, and its batches."""

    def __init__(self, work: Work, models: Models, ledger: Ledger) -> None:
        self.work, self.models, self.ledger = work, models, ledger

    def prepare(self) -> None:
        """Change the models as the trainers do before the first step."""
        from trl.trainer.utils import disable_dropout_in_model

        work, models = self.work, self.models
        if not work.drops_out:
            disable_dropout_in_model(models.policy)
        if work.stage.classifier:
            return
        is_gpu = work.device == "gpu"
        for model in (models.base, models.reference):
            if model is None:
                continue
            add_head(model, is_gpu=is_gpu)
            if work.stage.samples:
                critic = models.critic if model is models.base else None
                limit = 0 if is_gpu else None  # on a GPU it never holds all logits
                add_response_forward(model, temperature=1.0, critic=critic, max_logits=limit)

    def train(self) -> None:
        """Forward and backward; with accumulation again, when all gradients are there."""
        work, models = self.work, self.models
        models.policy.train()
        if work.checkpointing:
            keys = dict(work.checkpointing_kwargs) or None
            models.base.activation_checkpointing_enable(activation_checkpointing_kwargs=keys)
            if models.base is not models.policy:
                models.policy.enable_input_require_grads()
        for turn in range(min(work.batch.accumulation, 2)):
            if turn:
                for name in [n for n in self.ledger.segments if n.startswith("training")]:
                    del self.ledger.segments[name]
            with marked_layers(self.ledger, models.layers, "training"):
                with self._autocast():
                    loss = self._loss()
                self.ledger.mark("training: backward")
                loss.backward()
            del loss

    def _loss(self) -> Any:
        work, policy = self.work, self.models.policy
        inputs = _inputs(work.batch.rows, work.batch.length)
        if work.stage.samples:
            entropy = "gradient" if work.entropy_gradient else "value"
            found = policy(**inputs, **self._response(), with_values=True, entropy=entropy)
            loss = found.logps.sum() + found.state_values.sum()
            return loss + found.entropy.sum() if work.entropy_gradient else loss
        if work.stage.classifier:
            return policy(**inputs, use_cache=False).logits.sum()
        # passes over unmatched answers come before this graph exists, so they take less
        loss = -policy(**inputs, fused_lm_head=True).log_probs.sum()
        if work.reference and not work.precomputes_reference:
            self.ledger.mark("reference")
            with torch.no_grad(), self._as_reference() as reference:
                reference(**inputs, fused_lm_head=True)
        return loss

    def sample(self) -> int:
        """Sample answers and score them; the bytes of the KV cache at the last token.

        PPO and TRL turn checkpointing off for this; here `train` turns it on afterwards.
        """
        work, models = self.work, self.models
        models.policy.eval()
        with torch.no_grad():
            cache = self._generate()
            self.ledger.mark("scoring")
            for reward in models.rewards:
                reward(**_inputs(min(work.batch.rollout, SCORED_ROWS), work.batch.length))
            with self._autocast():
                self._score_tokens()
        return cache

    def _generate(self) -> int:
        """Read the prompts at once, then sample the last token, when the cache is full."""
        from transformers import DynamicCache

        policy, batch, word = self.models.policy, self.work.batch, cache_word()
        config = self.work.config.get_text_config()
        with marked_layers(self.ledger, self.models.layers, "prompts"):
            cache: Any = DynamicCache(config=config)
            inputs = _inputs(batch.rollout, batch.prompt)
            policy(**inputs, **{word: cache}, use_cache=True, logits_to_keep=1)
        kinds = [(layer.keys.shape, layer.keys.dtype) for layer in cache.layers]
        cache = None  # the full cache replaces it; the two never exist together
        self.ledger.mark("generation")
        cache = DynamicCache(config=config)
        for index, ((rows, heads, _, width), dtype) in enumerate(kinds):
            shape = (rows, heads, batch.length - 1, width)
            cache.update(torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype), index)
        with marked_layers(self.ledger, self.models.layers, "generation"):
            inputs = _inputs(batch.rollout, batch.length)
            inputs["input_ids"] = inputs["input_ids"][:, -1:]
            _sample(policy(**inputs, **{word: cache}, use_cache=True).logits[:, -1, :])
        return sum(2 * int(layer.keys.untyped_storage().nbytes()) for layer in cache.layers)

    def _score_tokens(self) -> None:
        """Old log-probabilities and values, then the reference's log-probabilities."""
        inputs = _inputs(self.work.batch.rows, self.work.batch.length)
        self.ledger.mark("old log-probabilities")
        self.models.policy(**inputs, **self._response(), with_values=True)
        if self.work.reference:
            self.ledger.mark("reference")
            with self._as_reference() as reference:
                reference(**inputs, **self._response())

    def _response(self) -> dict[str, int]:
        return {"response_length": self.work.batch.length - self.work.batch.prompt}

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """The reference: a model of its own, or the policy without its adapter."""
        if self.models.reference is not None:
            yield self.models.reference
            return
        with self.models.policy.disable_adapter():
            yield self.models.policy

    def _autocast(self) -> Any:
        if not self.work.autocast:
            return nullcontext()
        return torch.autocast("cpu", dtype=torch.bfloat16)  # these tensors know no other device


def _inputs(rows: int, length: int) -> dict[str, Tensor]:
    """Token ids and mask of a batch, `(rows, length)`."""
    shape = (rows, length)
    return {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.ones(shape, dtype=torch.long),
    }


def _sample(logits: Tensor) -> None:
    """As transformers samples: float32 scores, divided by the temperature, and their softmax."""
    scores = logits.to(copy=True, dtype=torch.float32)
    scores = scores / 0.5
    probabilities = torch.softmax(scores, dim=-1)
    torch.multinomial(probabilities, num_samples=1)
