"""Kahneman-Tversky optimisation (arXiv 2402.01306): answers labelled good or bad, without pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.registry import (
    ENTROPY,
    IMPLICIT_REWARD_METRICS,
    NO_LANGUAGE_KEYS,
    REFERENCE_KEYS,
    Ignored,
    Panel,
    Rule,
    Stage,
    Values,
    bounds,
    has_held_out_rows,
    help_keys,
    panel,
)

if TYPE_CHECKING:
    from alignment.training.job import Job


def _estimates_kl(values: Values) -> bool:
    """Whether the loss compares rewards with the KL of answers to other prompts of the batch."""
    return bool(values["loss_type"] == "kto")


STAGE = Stage(
    name="kto",
    summary="Optimise on answers labelled good or bad, without pairs",
    kind="unpaired",
    config="trl:KTOConfig",
    roles=("model",),
    keys=help_keys(
        "max_length", "beta", "loss_type", "desirable_weight", "undesirable_weight", "as_chat"
    ),
    help={
        "loss_type": "kto, or apo_zero_unpaired, which estimates no KL",
        "desirable_weight": "weight of the loss of good answers",
        "undesirable_weight": "weight of the loss of bad answers",
    },
    rules=(
        *bounds(("desirable_weight", "undesirable_weight"), lambda x: x >= 0, "0 or more"),
        Rule(
            "beta",
            lambda values: values["beta"] == 0,
            "0 makes the loss the same for every policy: nothing would be learned",
            "give beta over 0, such as 0.1",
        ),
        Rule(
            "undesirable_weight",
            lambda values: values["desirable_weight"] == values["undesirable_weight"] == 0,
            "{}, and desirable_weight too: nothing would be learned",
            "give one of the two a weight over 0",
        ),
        Rule(
            "per_device_train_batch_size",
            lambda values: _estimates_kl(values) and values["per_device_train_batch_size"] < 2,
            "{} leaves no other row in the batch to estimate the KL with",
            "give 2 or more, or loss_type: apo_zero_unpaired",
        ),
        Rule(
            "per_device_eval_batch_size",
            lambda values: (
                _estimates_kl(values)
                and has_held_out_rows(values)
                and values["per_device_eval_batch_size"] < 2
            ),
            "{} leaves no other row in the batch to estimate the KL with",
            "give 2 or more, or loss_type: apo_zero_unpaired",
        ),
        Rule(
            "train_sampling_strategy",
            lambda values: (
                _estimates_kl(values) and values["train_sampling_strategy"] != "sequential"
            ),
            "{} is not possible: KTOTrainer reads the rows in their order",
            "leave it out: the rows are shuffled once with the seed",
        ),
        Rule(
            "auto_find_batch_size",
            lambda values: _estimates_kl(values) and values["auto_find_batch_size"],
            "could end at one row, which leaves no other answer to estimate the KL with",
            "leave it out, or give loss_type: apo_zero_unpaired",
        ),
        Rule(
            "precompute_ref_batch_size",
            lambda values: (
                _estimates_kl(values)
                and values["precompute_ref_batch_size"]
                not in (None, values["per_device_train_batch_size"])
            ),
            "{} would estimate the KL of the reference with the answers of other batches",
            "leave it out, or give that of per_device_train_batch_size",
        ),
    ),
    ignored=(
        *NO_LANGUAGE_KEYS,
        *REFERENCE_KEYS,
        Ignored(
            ("data_seed",),
            "the rows are shuffled once, with the seed",
            "set seed instead, or give loss_type: apo_zero_unpaired",
            unless=lambda values: not _estimates_kl(values),
        ),
    ),
    losses=("kto", "apo_zero_unpaired"),
    answer_losses=(),
    splits_prompt=True,
    rows_per_example=1,
    joins_rows=False,
    # the KL is estimated with the answers of a batch exchanged, so a batch has to hold good and bad
    # answers, and to different prompts, whatever the order of the file is
    reads_in_order=True,
    long_rows="cut",
    length_key="max_length",
    samples=False,
    reference="always",
    critic=False,
    classifier=False,
    unmatched_passes=1,
    resumes_with_other_batch=True,
    best_metric="loss",
    metrics={
        "loss": False,
        "kl": None,
        **IMPLICIT_REWARD_METRICS,
    },
    panels=(
        panel("rewards/margins", "Margin", "Implicit reward of good minus bad answers", 0.0),
        panel(
            "loss",
            "Loss",
            "Starts at 0.5; loss_type kto reads the KL estimate, which depends on the batch size",
            0.5,
        ),
        Panel(
            "Implicit rewards",
            (("rewards/chosen", "good"), ("rewards/rejected", "bad")),
            "If both fall, the model gives all these answers less probability",
            0.0,
        ),
        panel(
            "kl",
            "KL estimate",
            "Nats per answer, from answers to other prompts of a batch: depends on its size",
            0.0,
        ),
        Panel("Log-probabilities", (("logps/chosen", "good"), ("logps/rejected", "bad"))),
        ENTROPY,
    ),
)


def run(job: Job) -> None:
    """Train on labelled answers; the reference is the model that training starts from."""
    from alignment.training.arguments import trainer_arguments
    from alignment.training.trainers import PreparedKTOTrainer

    arguments = trainer_arguments(job)
    job.train(PreparedKTOTrainer(**arguments, positions=job.rows.start.positions))
