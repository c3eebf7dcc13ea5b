"""Direct preference optimisation (arXiv 2305.18290): preferences without a reward model."""

from trl import DPOTrainer

from alignment.training.arguments import trainer_arguments
from alignment.training.job import Job


def run(job: Job) -> None:
    """Train on pairs; the reference is the model that training starts from."""
    job.train(DPOTrainer(**trainer_arguments(job)))
