"""Supervised fine-tuning: the model learns to give the answers of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.registry import LANGUAGE_KEYS, LANGUAGE_METRICS, LANGUAGE_PANELS, Stage, help_keys

if TYPE_CHECKING:
    from alignment.training.job import Job

STAGE = Stage(
    name="sft",
    summary="Fine-tune on answers (supervised)",
    kind="sft",
    config="trl:SFTConfig",
    roles=("model",),
    keys=help_keys("max_length", "packing", "loss_on", "as_chat", "chat_template"),
    help={
        "loss_on": "tokens that carry loss: assistant, last or all",
        "chat_template": "a known name, a .jinja file, or a model's folder",
    },
    rules=(),
    ignored=LANGUAGE_KEYS,
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
    """Train on answers; of ``{"prompt","completion"}`` rows only the completion carries loss."""
    from alignment.training.arguments import trainer_arguments
    from alignment.training.trainers import PreparedSFTTrainer

    job.train(PreparedSFTTrainer(**trainer_arguments(job)))
