"""Direct preference optimisation (arXiv 2305.18290): preferences without a reward model."""

from __future__ import annotations

import math
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
    bounds,
    help_keys,
    panel,
)

if TYPE_CHECKING:
    from alignment.training.job import Job

#: Losses that a divergence other than the reverse KL changes.
_DIVERGING = (
    "discopop",
    "exo_pair",
    "hinge",
    "ipo",
    "robust",
    "sft",
    "sigmoid",
    "sigmoid_norm",
)
#: Losses that read ``label_smoothing``.
_SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")

STAGE = Stage(
    name="dpo",
    summary="Optimise on preferences directly, without a reward model",
    kind="preference",
    config="trl:DPOConfig",
    roles=("model",),
    keys=help_keys("max_length", "beta", "loss_type", "as_chat"),
    help={"loss_type": "DPO loss or losses"},
    rules=(
        # from a half on, every label would be taken for its opposite
        *bounds(("label_smoothing",), lambda x: 0 <= x < 0.5, "at least 0 and under 0.5"),
        Rule(
            "beta",
            lambda values: values["beta"] == 0 and set(values["loss_type"]) != {"sft"},
            "0 makes the loss the same for every policy: nothing would be learned",
            "give beta over 0, such as 0.1",
        ),
        Rule(
            "label_smoothing",
            lambda values: "exo_pair" in values["loss_type"] and values["label_smoothing"] == 0,
            "{} leaves exo_pair undefined",
            "set label_smoothing: 0.001",
        ),
        Rule(
            "f_divergence_type",
            lambda values: (
                values["f_divergence_type"] != "reverse_kl"
                and not set(values["loss_type"]) <= set(_DIVERGING)
            ),
            "{} is possible only with the losses " + ", ".join(_DIVERGING),
            "leave it out, or choose another loss_type",
        ),
        Rule(
            "use_weighting",
            lambda values: (
                values["use_weighting"] and bool({"aot", "aot_unpaired"} & set(values["loss_type"]))
            ),
            "cannot weight pairs that aot sorts",
            "leave it out, or choose another loss_type",
        ),
        Rule(
            "loss_weights",
            lambda values: (
                values["loss_weights"] is not None
                and len(values["loss_weights"]) != len(values["loss_type"])
            ),
            "{} is not one number for each loss_type",
            "give as many weights as losses",
        ),
    ),
    ignored=(
        *NO_LANGUAGE_KEYS,
        *REFERENCE_KEYS,
        Ignored(
            ("label_smoothing",),
            "acts only with the losses " + ", ".join(_SMOOTHED),
            "leave it out, or choose another loss_type",
            unless=lambda values: not set(_SMOOTHED).isdisjoint(values["loss_type"]),
        ),
        Ignored(
            ("discopop_tau",),
            "acts only with loss_type: discopop",
            unless=lambda values: "discopop" in values["loss_type"],
        ),
        Ignored(
            ("f_alpha_divergence_coef",),
            "acts only with f_divergence_type: alpha_divergence",
            unless=lambda values: values["f_divergence_type"] == "alpha_divergence",
        ),
    ),
    losses=(
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sft",
        "sigmoid_norm",
    ),
    answer_losses=("sft",),
    splits_prompt=True,
    rows_per_example=2,
    joins_rows=False,
    reads_in_order=False,
    long_rows="cut",
    length_key="max_length",
    samples=False,
    reference="always",
    critic=False,
    classifier=False,
    unmatched_passes=0,
    resumes_with_other_batch=True,
    best_metric="rewards/accuracies",
    metrics={
        "rewards/accuracies": True,
        "loss": False,
        "mean_token_accuracy": True,
        **IMPLICIT_REWARD_METRICS,
    },
    panels=(
        panel("rewards/accuracies", "Accuracy", "Share of pairs in the right order", 0.5),
        panel("loss", "Loss", "Starts at log 2", math.log(2)),
        panel("rewards/margins", "Margin", "Implicit reward of chosen minus rejected", 0.0),
        Panel(
            "Implicit rewards",
            (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")),
            "If both fall, the model gives both answers less probability",
            0.0,
        ),
        Panel("Log-probabilities", (("logps/chosen", "chosen"), ("logps/rejected", "rejected"))),
        ENTROPY,
    ),
)


def run(job: Job) -> None:
    """Train on pairs; the reference is the model that training starts from."""
    from alignment.training.arguments import trainer_arguments
    from alignment.training.trainers import PreparedDPOTrainer

    trainer = PreparedDPOTrainer(**trainer_arguments(job), answer_losses=STAGE.answer_losses)
    job.train(trainer)
