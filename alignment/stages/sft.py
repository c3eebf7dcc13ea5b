"""Supervised fine-tuning: the model learns to give the answers of the data."""

from trl import SFTTrainer

from alignment.job import Job
from alignment.stages.arguments import trainer_arguments


def run(job: Job) -> None:
    """Train on answers; of ``{"prompt","completion"}`` rows only the completion carries loss."""
    job.train(SFTTrainer(**trainer_arguments(job)))
