"""The engines that answer a batch of prompts: transformers, or vLLM if it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from transformers import GenerationConfig, PreTrainedTokenizerBase

from alignment.evaluate.generation import Policy, Sampling, end_tokens, generate, load_policy

if TYPE_CHECKING:
    from alignment.reject.plan import Plan

Answers: TypeAlias = list[dict[str, Any]]
"""Answers to one prompt, each with `text`, `tokens` (including EOS) and `finish_reason`."""
Engine: TypeAlias = Callable[[list[list[int]], list[int]], list[Answers]]
"""Takes the token ids of each prompt and a seed for each; returns the answers to each."""


def load_engine(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Engine:
    """Load the model in the engine that the plan names."""
    if plan.options.vllm:
        return _load_vllm(plan, tokenizer)
    return Transformers(plan, load_policy(plan.model, plan.model, tokenizer))


@dataclass(frozen=True)
class Transformers:
    """Answer with transformers' `generate`; a batch is sampled with the seed of its first row."""

    plan: Plan
    policy: Policy

    def __call__(self, prompt_ids: list[list[int]], seeds: list[int]) -> list[Answers]:
        """Answer every prompt `num_samples` times, all in one batch."""
        count = self.plan.options.num_samples
        repeated = [ids for ids in prompt_ids for _ in range(count)]
        sampling = Sampling(
            self.plan.options.max_new_tokens, self.plan.temperature, len(repeated), seeds[0]
        )
        found = [
            {
                "text": one.text,
                "tokens": len(one.ids),
                "finish_reason": "stop" if one.eos else "length",
            }
            for one in generate(self.policy, repeated, sampling)
        ]
        return [found[i : i + count] for i in range(0, len(found), count)]


@dataclass(frozen=True)
class Vllm:
    """Answer with vLLM; every prompt has its own seed."""

    plan: Plan
    tokenizer: PreTrainedTokenizerBase
    vllm: Any
    model: Any
    eos_ids: list[int]

    def __call__(self, prompt_ids: list[list[int]], seeds: list[int]) -> list[Answers]:
        """Answer every prompt `num_samples` times."""
        sampling = [
            self.vllm.SamplingParams(
                n=self.plan.options.num_samples,
                temperature=self.plan.temperature,
                max_tokens=self.plan.options.max_new_tokens,
                stop_token_ids=self.eos_ids,
                seed=seed,
            )
            for seed in seeds
        ]
        prompts = [{"prompt_token_ids": ids} for ids in prompt_ids]
        outputs = self.model.generate(prompts, sampling, use_tqdm=False)
        return [[self._answer(one) for one in output.outputs] for output in outputs]

    def _answer(self, one: Any) -> dict[str, Any]:
        ids = list(one.token_ids)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return {"text": str(text), "tokens": len(ids), "finish_reason": str(one.finish_reason)}


def _load_vllm(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Vllm:
    """Load the model without its own sampling defaults, as the transformers engine does."""
    vllm = importlib.import_module("vllm")
    model = vllm.LLM(model=plan.model, generation_config="vllm", seed=plan.options.seed)
    try:
        configured = GenerationConfig.from_pretrained(plan.model).eos_token_id
    except OSError:  # the model has no generation config
        configured = None
    return Vllm(plan, tokenizer, vllm, model, list(end_tokens(configured, tokenizer)))
