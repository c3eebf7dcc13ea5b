"""Proximal policy optimisation against a reward model (arXiv 2203.02155, 2403.17031)."""

from itertools import islice
from typing import Any

import click

from alignment.models.folders import prompt_budget
from alignment.ppo.checks import long_prompts
from alignment.ppo.rewards import load_rewards
from alignment.ppo.trainer import PPOTrainer
from alignment.processes import is_main
from alignment.training.arguments import trainer_arguments
from alignment.training.job import Job

_NAMED_PROMPTS = 5


def run(job: Job) -> None:
    """Train on prompts; the reference is the model that training starts from."""
    arguments = trainer_arguments(job)
    if job.settings.values["on_bad_row"] == "drop":
        _drop_long_prompts(job, arguments)
    args = arguments["args"]
    rewards, reward_tokenizers = load_rewards(
        args.reward_model,
        policy_tokenizer=arguments["processing_class"],
        trust_remote_code=args.trust_remote_code,
        accuracy_gate=args.reward_accuracy_gate,
        timeout=args.reward_timeout,
        retries=args.reward_retries,
    )
    trainer = PPOTrainer(
        **arguments, reward_funcs=rewards, reward_processing_classes=reward_tokenizers
    )
    job.train(trainer)


def _drop_long_prompts(job: Job, arguments: dict[str, Any]) -> None:
    """Leave out prompts with no room for a response, in place; name and count them."""
    args = arguments["args"]
    budget = prompt_budget(job.run, args)
    if budget is None:
        return
    for key in ("train_dataset", "eval_dataset"):
        rows, name = arguments[key], key.removesuffix("_dataset")
        found = dict(
            long_prompts(
                rows,
                budget=budget,
                tokenizer=arguments["processing_class"],
                template=args.chat_template_kwargs or {},
            )
        )
        if not found:
            continue
        arguments[key] = rows.select(row for row in range(len(rows)) if row + 1 not in found)
        if is_main():
            for row, length in islice(found.items(), _NAMED_PROMPTS):
                why = f"its prompt has {length} tokens, {budget} leave room for a response"
                click.echo(f"dropped: {name} row {row}: {why}", err=True)
            click.echo(f"dropped {len(found)} of {len(rows)} {name} prompts: too long", err=True)
