"""What a tracker is: the protocol that metrics.jsonl, W&B and every other tracker implement."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class TrainerEvent:
    """An event of a Trainer's callbacks (`name` is "on_save", for example) and what it passes."""

    name: str
    args: Any
    state: Any
    control: Any
    others: dict[str, Any]


class Tracker(Protocol):
    """Where the numbers and tables of a run go.

    A method may do nothing if the tracker has no such thing, and may raise anything:
    `alignment.trackers.multiplexer.Trackers` reports it, and training continues. The methods are
    called in the main process only.
    """

    name: str

    def resume(self, *, step: int) -> None:
        """Start the run, or continue it after a step (0 if it starts from the beginning)."""

    def set_config(self, config: dict[str, Any]) -> None:
        """Record what the run is: its stage, fingerprint, inputs, parents and settings."""

    def log(self, numbers: dict[str, Any], *, step: int) -> None:
        """Record the numbers that a step logs, named as the Trainer names them."""

    def log_table(self, name: str, rows: list[dict[str, Any]], *, step: int) -> None:
        """Append rows of a step to a table; all of them have the same columns."""

    def on_event(self, event: TrainerEvent) -> None:
        """Receive an event of the Trainer; called before the other method that it leads to."""

    def finish(self, *, exit_code: int) -> None:
        """End the run; the code is 0 if it finished, otherwise 1."""
