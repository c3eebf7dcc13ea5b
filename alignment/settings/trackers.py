"""The trackers that `report_to` accepts: the package that each needs and the class that drives it.

A new tracker is one row here. If transformers has no callback for it, or if its tables are wanted,
it also needs a class with the methods of `alignment.trackers.base.Tracker`. This module imports
nothing heavy, so that settings are validated without torch.
"""

from collections.abc import Sequence
from typing import NamedTuple


class KnownTracker(NamedTuple):
    """What a name in `report_to` stands for.

    `package` is imported by the tracker ("" if it needs none). `implementation` is a class as
    `module:Class`; it is called with the name, the run's record and the run's folder.
    """

    package: str
    implementation: str = "alignment.trackers.integrations:IntegrationTracker"


TRACKERS = {
    "wandb": KnownTracker("wandb", "alignment.trackers.wandb:WandbTracker"),
    "tensorboard": KnownTracker("tensorboard", "alignment.trackers.tensorboard:TensorBoardTracker"),
    "trackio": KnownTracker("trackio"),
    "mlflow": KnownTracker("mlflow"),
    "comet_ml": KnownTracker("comet_ml"),
    "swanlab": KnownTracker("swanlab"),
    "neptune": KnownTracker("neptune"),
    "clearml": KnownTracker("clearml"),
    "dvclive": KnownTracker("dvclive"),
    "codecarbon": KnownTracker("codecarbon"),
    "flyte": KnownTracker("flytekit"),
    "kubeflow": KnownTracker(""),
    "azure_ml": KnownTracker("azureml"),
    "dagshub": KnownTracker("dagshub"),
}


def reporters(report_to: str | Sequence[str] | None) -> Sequence[str]:
    """The names in a value of `report_to`, with `all` and `none`."""
    return [report_to] if isinstance(report_to, str) else report_to or []
