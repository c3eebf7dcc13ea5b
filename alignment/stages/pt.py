"""Continued pre-training: next-token prediction on plain text, packed to full blocks."""

from trl import SFTTrainer

from alignment.training.arguments import trainer_arguments
from alignment.training.job import Job


def run(job: Job) -> None:
    """Train on ``{"text"}`` rows; every token counts."""
    job.train(SFTTrainer(**trainer_arguments(job)))
