"""What ppo does between updates: generation with its KV cache, scoring, old log-probabilities."""

from typing import Any

import torch

from alignment.models.renamed import cache_word
from alignment.plan.forward import as_reference, autocast, inputs_of
from alignment.plan.ledger import Ledger, decoder_layers, marked_layers
from alignment.plan.models import Models
from alignment.plan.work import REWARD_ROWS, Work
from alignment.ppo.adapters import keeping_activations


def roll_out(work: Work, models: Models, ledger: Ledger) -> int:
    """One rollout, without gradients; the bytes of its KV cache at the last token."""
    models.policy.eval()
    with torch.no_grad(), keeping_activations(models.base):  # as PPO and TRL do
        cache = _generate(work, models, ledger)
        ledger.mark("scoring")
        for reward in models.rewards:
            reward(**inputs_of(min(work.batch.rollout, REWARD_ROWS), work.batch.length))
        with autocast(work):
            _score_tokens(work, models, ledger)
    models.policy.train()
    return cache


def _generate(work: Work, models: Models, ledger: Ledger) -> int:
    """The prompts at once, then the last token, when the cache is full; the bytes of that cache."""
    from transformers import DynamicCache

    batch, text, word = work.batch, work.config.get_text_config(), cache_word()
    layers = decoder_layers(models.base)
    with marked_layers(ledger, layers, "prompts"):
        cache: Any = DynamicCache(config=text)
        inputs = inputs_of(batch.rollout, batch.prompt)
        models.policy(**inputs, **{word: cache}, use_cache=True, logits_to_keep=1)
    kinds = [(layer.keys.shape, layer.keys.dtype) for layer in cache.layers]
    cache = None  # before its successor, which is as full as it gets
    ledger.mark("generation")
    cache = DynamicCache(config=text)
    for index, ((rows, heads, _, width), dtype) in enumerate(kinds):
        shape = (rows, heads, batch.length - 1, width)
        cache.update(torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype), index)
    with marked_layers(ledger, layers, "generation"):
        inputs = inputs_of(batch.rollout, batch.length)
        inputs["input_ids"] = inputs["input_ids"][:, -1:]
        _sample(models.policy(**inputs, **{word: cache}, use_cache=True).logits[:, -1, :])
    return sum(2 * int(layer.keys.untyped_storage().nbytes()) for layer in cache.layers)


def _sample(logits: torch.Tensor) -> None:
    """As transformers samples: float32 scores, divided by the temperature, then their softmax."""
    scores = logits.to(copy=True, dtype=torch.float32)
    scores = scores / 0.5
    probabilities = torch.softmax(scores, dim=-1)
    torch.multinomial(probabilities, num_samples=1)


def _score_tokens(work: Work, models: Models, ledger: Ledger) -> None:
    batch = work.batch
    inputs = inputs_of(batch.rows, batch.length)
    length = batch.length - batch.prompt
    ledger.mark("old log-probabilities")
    models.policy(**inputs, response_length=length, with_values=True)
    if work.reference:
        ledger.mark("reference")
        with as_reference(models) as reference:
            reference(**inputs, response_length=length)
