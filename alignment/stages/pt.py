"""Continued pre-training: next-token prediction on plain text, packed to full blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.registry import (
    LANGUAGE_KEYS,
    LANGUAGE_METRICS,
    LANGUAGE_PANELS,
    Ignored,
    Stage,
    help_keys,
)

if TYPE_CHECKING:
    from alignment.training.job import Job

STAGE = Stage(
    name="pt",
    summary="Continue pre-training on plain text, packed",
    kind="text",
    config="trl:SFTConfig",
    roles=("model",),
    keys=help_keys("max_length", "packing"),
    help={},
    rules=(),
    ignored=(
        *LANGUAGE_KEYS,
        Ignored(("loss_on", "as_chat"), "every token of a text is learned, as it is"),
    ),
    losses=(),
    answer_losses=(),
    splits_prompt=False,
    rows_per_example=1,
    joins_rows=True,
    reads_in_order=False,
    long_rows="cut",
    length_key="max_length",
    samples=False,
    reference="never",
    critic=False,
    classifier=False,
    unmatched_passes=0,
    resumes_with_other_batch=True,
    best_metric="loss",
    metrics=LANGUAGE_METRICS,
    panels=LANGUAGE_PANELS,
)


def run(job: Job) -> None:
    """Train on ``{"text"}`` rows; every token carries loss."""
    from alignment.training.arguments import trainer_arguments
    from alignment.training.trainers import PreparedSFTTrainer

    job.train(PreparedSFTTrainer(**trainer_arguments(job)))
