"""Reward model: a score for each answer, the chosen one above the rejected (Bradley-Terry)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from alignment.registry import NO_LANGUAGE_KEYS, Ignored, Rule, Stage, bounds, help_keys, panel
from alignment.runs import REWARD_STATS

if TYPE_CHECKING:
    from alignment.training.job import Job

STAGE = Stage(
    name="rm",
    summary="Train a reward model on chosen and rejected answers",
    kind="preference",
    config="trl:RewardConfig",
    roles=("model",),
    keys=help_keys("max_length", "center_rewards_coefficient", "as_chat"),
    help={"center_rewards_coefficient": "keep the mean reward near zero"},
    rules=(
        *bounds(("center_rewards_coefficient",), lambda x: x >= 0, "0 or more"),
        Rule(
            "bf16",
            lambda values: values["bf16"] is False and values["dtype"] == "bfloat16",
            "false, but the score head is trained in float32 and the base is in bfloat16",
            "leave bf16 out, or set dtype: float32",
        ),
    ),
    ignored=(
        *NO_LANGUAGE_KEYS,
        Ignored(("loss_on",), "a score is that of a whole answer"),
    ),
    losses=(),
    answer_losses=(),
    splits_prompt=False,
    rows_per_example=2,
    joins_rows=False,
    reads_in_order=False,
    long_rows="drop",
    length_key="max_length",
    samples=False,
    reference="never",
    critic=False,
    classifier=True,
    unmatched_passes=0,
    resumes_with_other_batch=True,
    best_metric="accuracy",
    metrics={
        "accuracy": True,
        "loss": False,
        "margin": True,
        "mean_reward": None,
        "min_reward": None,
        "max_reward": None,
    },
    panels=(
        panel("accuracy", "Accuracy", "Share of pairs ranked as in the data", 0.5),
        panel("loss", "Loss", "Random guesses give log 2", math.log(2)),
        panel("margin", "Margin", "Reward of chosen minus rejected", 0.0),
    ),
)
#: Enough answers to estimate a mean and a deviation within a few per cent.
_STATS_PAIRS = 512


def run(job: Job) -> None:
    """Train on pairs, then measure the scores of chosen answers, with which PPO normalises."""
    from alignment.models.policy import load_reward_policy
    from alignment.training.arguments import trainer_arguments
    from alignment.training.trainers import PreparedRewardTrainer

    trainer = PreparedRewardTrainer(**trainer_arguments(job, load_model=load_reward_policy))
    job.train(trainer)
    stats = reward_stats(trainer)
    job.run.metrics |= {"reward_mean": stats["mean"], "reward_std": stats["std"]}
    job.write(REWARD_STATS, json.dumps(stats) + "\n")


def reward_stats(trainer: Any) -> dict[str, float]:
    """Mean and deviation of the scores of chosen answers, held-out ones if there are any."""
    import torch
    from accelerate.utils import gather_object  # type: ignore[import-untyped]

    rows = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
    loader = trainer.get_eval_dataloader(rows.select(range(min(_STATS_PAIRS, len(rows)))))
    scores: list[float] = []
    trainer.model.eval()
    for number, batch in enumerate(loader):
        inputs = {
            key: batch[key].to(trainer.args.device) for key in ("input_ids", "attention_mask")
        }
        with torch.no_grad(), trainer.compute_loss_context_manager():
            logits = trainer.model(**inputs).logits[:, 0].float()
        if number < loader.batch_sampler.real:
            scores += logits.chunk(2)[0].tolist()  # the collator puts the chosen half first
    values = torch.tensor(gather_object(scores), dtype=torch.float64)
    return {
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "count": values.numel(),
    }
