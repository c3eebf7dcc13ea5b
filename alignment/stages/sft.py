"""Supervised fine-tuning: the model learns to give the answers of the data."""

from trl import SFTTrainer

from alignment.training.arguments import trainer_arguments
from alignment.training.job import Job


def run(job: Job) -> None:
    """Train on answers; of ``{"prompt","completion"}`` rows only the completion carries loss."""
    job.train(SFTTrainer(**trainer_arguments(job)))
