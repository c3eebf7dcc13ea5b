"""Completions with their scores, written while training for a person to read."""

import json
import logging
from pathlib import Path
from typing import Any

from alignment.files import SAMPLES

logger = logging.getLogger(__name__)


class SampleLog:
    """Appends completions to `samples.jsonl` in the run's folder, and to a W&B table.

    Whatever W&B raises is said once; from then on only the file is written.
    """

    def __init__(self, folder: Path, *, num_samples: int) -> None:
        self.path = folder / SAMPLES
        self.num_samples = num_samples
        self._table_failed = False

    def write(
        self,
        step: int,
        rows: list[dict[str, Any]],
        *,
        to_wandb: bool,
    ) -> None:
        """Append the first few of the rows under a step."""
        rows = [{"step": step, **row} for row in rows[: self.num_samples]]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if not to_wandb or self._table_failed or not rows:
            return
        try:
            _log_table(rows)
        except Exception as error:  # whatever a tracker raises, training goes on
            self._table_failed = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("W&B has no table of samples from now on: %s; see %s", reason, self.path)


def _log_table(rows: list[dict[str, Any]]) -> None:
    import wandb

    if wandb.run is None:
        return
    columns = list(rows[0])
    data = [[_cell(row[column]) for column in columns] for row in rows]
    # Not committed: the table joins the metrics that are logged next, under their step.
    wandb.log({"samples": wandb.Table(columns=columns, data=data)}, commit=False)


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else json.dumps(value, ensure_ascii=False)
