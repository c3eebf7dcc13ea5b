"""Load each model, generate its answers, compare it with the reference, and score the answers.

At most two models are in memory at a time: the reference and one other. The reward model is loaded
after all of them are deleted.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from alignment.evaluate import generation
from alignment.evaluate.divergence import sequence_kl, why_not_comparable
from alignment.evaluate.generation import Generated, Policy, Sampling, load_policy
from alignment.evaluate.progress import counting_progress
from alignment.evaluate.records import Answer, AnswerRow, Evaluation, NamedModel, Prompt
from alignment.evaluate.rules import apply_rule
from alignment.evaluate.summaries import Measured, rule_kinds, summarise
from alignment.models.device import describe_device
from alignment.models.folders import load_padding_tokenizer
from alignment.ppo.scorer import load_scorer
from alignment.runs import versions

if TYPE_CHECKING:
    from alignment.evaluate.plan import Plan

Advance = Callable[[int], None]


def measure(plan: Plan) -> Evaluation:
    """Execute a checked plan."""
    tokenizers = {model.name: load_padding_tokenizer(model.path) for model in plan.models}
    encoded = {model.name: _encode(model, tokenizers[model.name], plan) for model in plan.models}
    with counting_progress() as progress:
        measured = _answers(plan, tokenizers, encoded, progress)
        for score in (_with_rewards, _with_rules):
            measured = score(plan, measured, progress)
    rules = rule_kinds([(rule.name, rule.spec) for rule in plan.rules], list(measured.values()))
    summaries = [
        summarise(
            model,
            measured[model.name],
            reference=_other(plan.reference, model.name, measured),
            rules=rules,
        )
        for model in plan.models
    ]
    return Evaluation(
        models=summaries,
        reference=plan.reference,
        rules=rules,
        reward_model=plan.reward_model,
        prompts=plan.source,
        options=dataclasses.asdict(plan.options),
        versions=versions(),
        device=describe_device(),
        rows=_rows(plan, measured),
    )


def _encode(model: NamedModel, tokenizer: PreTrainedTokenizerBase, plan: Plan) -> list[list[int]]:
    ids, positions = generation.encode_prompts(
        tokenizer, plan.prompts, name=model.name, path=model.path
    )
    generation.check_context(ids, plan.options.max_new_tokens, context=positions, name=model.name)
    return ids


def _answers(
    plan: Plan,
    tokenizers: dict[str, PreTrainedTokenizerBase],
    encoded: dict[str, list[list[int]]],
    progress: Progress,
) -> dict[str, Measured]:
    """Every model's answers, and samples with their KL; the reference first, then in order."""
    measured: dict[str, Measured] = {}
    reference: Policy | None = None
    for model in sorted(plan.models, key=lambda model: model.name != plan.reference):
        policy = load_policy(model.name, model.path, tokenizers[model.name])
        measured[model.name] = _one_model(plan, policy, reference, encoded[model.name], progress)
        if model.name == plan.reference:
            reference = policy
        del policy
        _free()
    return measured


def _one_model(
    plan: Plan,
    policy: Policy,
    reference: Policy | None,
    prompt_ids: list[list[int]],
    progress: Progress,
) -> Measured:
    options = plan.options

    def bar(label: str) -> Advance:
        return _bar(progress, f"{policy.name}: {label}", len(prompt_ids))

    sampling = Sampling(
        options.max_new_tokens, options.temperature, options.batch_size, options.seed
    )
    greedy = generation.generate(policy, prompt_ids, sampling, advance=bar("answers"))
    answers = [Answer(one.text, len(one.ids), one.eos) for one in greedy]
    note = "" if reference is None else why_not_comparable(policy, reference)
    if reference is None or note:
        return Measured(answers, [], [], note)
    samples = generation.generate(
        policy, prompt_ids, dataclasses.replace(sampling, temperature=1.0), advance=bar("samples")
    )
    kls = sequence_kl(policy, reference, samples, batch_size=options.batch_size, advance=bar("KL"))
    return Measured(_with_samples(answers, samples, kls), kls, [len(one.ids) for one in samples])


def _with_samples(
    answers: list[Answer], samples: list[Generated], kls: list[float]
) -> list[Answer]:
    return [
        dataclasses.replace(answer, sampled_text=sample.text, sampled_kl=kl)
        for answer, sample, kl in zip(answers, samples, kls, strict=True)
    ]


def _with_rewards(
    plan: Plan, measured: dict[str, Measured], progress: Progress
) -> dict[str, Measured]:
    if plan.reward_model is None:
        return measured
    tokenizer = load_padding_tokenizer(plan.models[0].path)
    scorer = load_scorer(plan.reward_model, policy_tokenizer=tokenizer)
    scorer.batch_size = plan.options.batch_size
    found = {}
    for name, model in measured.items():
        advance = _bar(progress, f"{name}: rewards", len(plan.prompts))
        rewards = scorer(
            prompts=plan.prompts,
            completions=[
                _completion(prompt, one)
                for prompt, one in zip(plan.prompts, model.answers, strict=True)
            ],
        )
        advance(len(plan.prompts))
        answers = [
            dataclasses.replace(answer, reward=reward)
            for answer, reward in zip(model.answers, rewards, strict=True)
        ]
        found[name] = dataclasses.replace(model, answers=answers)
    return found


def _with_rules(
    plan: Plan, measured: dict[str, Measured], progress: Progress
) -> dict[str, Measured]:
    found = {}
    for name, model in measured.items():
        completions = [_completion(p, a) for p, a in zip(plan.prompts, model.answers, strict=True)]
        scores = {
            rule.name: apply_rule(rule, plan.prompts, completions, columns=plan.columns)
            for rule in plan.rules
        }
        answers = [
            dataclasses.replace(answer, scores={rule: scores[rule][i] for rule in scores})
            for i, answer in enumerate(model.answers)
        ]
        found[name] = dataclasses.replace(model, answers=answers)
    return found


def _completion(prompt: Prompt, answer: Answer) -> Any:
    """An answer in the format of its prompt, as TRL's trainers pass it to reward functions."""
    if isinstance(prompt, str):
        return answer.text
    return [{"role": "assistant", "content": answer.text}]


def _rows(plan: Plan, measured: dict[str, Measured]) -> list[AnswerRow]:
    return [
        AnswerRow(
            index=i,
            prompt=prompt,
            columns={key: values[i] for key, values in plan.columns.items()},
            answers={model.name: measured[model.name].answers[i] for model in plan.models},
        )
        for i, prompt in enumerate(plan.prompts)
    ]


def _other(reference: str | None, name: str, measured: dict[str, Measured]) -> Measured | None:
    return None if reference in {None, name} else measured[str(reference)]


def _bar(progress: Progress, label: str, total: int) -> Advance:
    task = progress.add_task(label, total=total)
    return lambda rows: progress.advance(task, rows)


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
