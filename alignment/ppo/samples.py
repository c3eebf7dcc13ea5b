"""Completions with their scores, written while training for a person to read."""

import json
from pathlib import Path
from typing import Any

import wandb


class SampleLog:
    """Appends completions to `samples.jsonl` in the run's folder, and to a W&B table."""

    def __init__(self, folder: Path, *, num_samples: int) -> None:
        self.path = folder / "samples.jsonl"
        self.num_samples = num_samples

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
        if to_wandb and wandb.run is not None and rows:
            columns = list(rows[0])
            data = [[_cell(row[column]) for column in columns] for row in rows]
            wandb.log({"samples": wandb.Table(columns=columns, data=data)}, commit=False)


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else json.dumps(value, ensure_ascii=False)
