"""Direct preference optimisation (arXiv 2305.18290): preferences without a reward model."""

import math
from typing import TYPE_CHECKING

from alignment.registry import ENTROPY, Panel, Stage, bounds, help_keys, panel

if TYPE_CHECKING:
    from alignment.training.job import Job

STAGE = Stage(
    name="dpo",
    summary="Optimise on preferences directly, without a reward model",
    kind="preference",
    config="trl:DPOConfig",
    roles=("model",),
    keys=help_keys("max_length", "beta", "loss_type", "as_chat"),
    help={"loss_type": "DPO loss or losses"},
    rules=bounds(("label_smoothing",), lambda x: 0 <= x <= 1, "within 0 and 1"),
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


def run(job: "Job") -> None:
    """Train on pairs; the reference is the model that training starts from."""
    from alignment.training.arguments import trainer_arguments
    from alignment.training.trainers import PreparedDPOTrainer

    job.train(PreparedDPOTrainer(**trainer_arguments(job)))
