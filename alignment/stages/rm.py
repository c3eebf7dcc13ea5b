"""Reward model: a score for each answer, the chosen one above the rejected (Bradley-Terry)."""

import json
from typing import Any

import torch
from trl import RewardTrainer, get_quantization_config

from alignment.checks import check_data
from alignment.data import load_datasets
from alignment.job import Job
from alignment.models import load_reward_policy, load_tokenizer
from alignment.processes import is_main
from alignment.runs import write_text

#: Enough answers to know a mean and a deviation to a few per cent.
_STATS_PAIRS = 512


def run(job: Job) -> None:
    """Train on pairs, then measure the scores of chosen answers, by which PPO normalises."""
    data, _, model, args = job.dataclasses()
    tokenizer = load_tokenizer(model, args)
    train, held_out = load_datasets(data, kind="preference", tokenizer=tokenizer, seed=args.seed)
    check_data(job.run, train, held_out, tokenizer=tokenizer, args=args)
    trainer = RewardTrainer(
        **load_reward_policy(model, args),
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model),
        callbacks=job.callbacks(),
    )
    job.train(trainer)
    stats = reward_stats(trainer)
    job.run.metrics |= {"reward_mean": stats["mean"], "reward_std": stats["std"]}
    if is_main():
        write_text(job.folder / "reward_stats.json", json.dumps(stats) + "\n")


def reward_stats(trainer: Any) -> dict[str, float]:
    """Mean and deviation of the scores of chosen answers, held-out ones where there are any."""
    rows = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
    rows = rows.select(range(min(_STATS_PAIRS, len(rows))))
    scores = []
    trainer.model.eval()
    for batch in trainer.get_eval_dataloader(rows):
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad(), trainer.compute_loss_context_manager():
            logits = trainer.model(**inputs).logits[:, 0].float()
        chosen = logits.chunk(2)[0]  # the collator puts the chosen half first
        scores.append(trainer.accelerator.gather(chosen))
    values = torch.cat(scores)
    return {
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "count": values.numel(),
    }
