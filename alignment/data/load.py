"""Prepared rows as the `datasets.Dataset` that a TRL trainer takes, mapped from disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from alignment.data.arrow import ABOUT_ROW
from alignment.data.rows import Numbers, StageRows, select_rows

if TYPE_CHECKING:
    from alignment.data.prepare import Prepared


def load_datasets(rows: StageRows, values: Mapping[str, Any]) -> tuple[Dataset, Dataset | None]:
    """Training rows and held-out rows; None if there are none."""
    found = select_rows(rows, values)
    train = _mapped(rows.by_role["train"], found["train"].kept)
    if "eval" not in found:
        return train, None
    held_out = rows.by_role.get("eval", rows.by_role["train"])
    return train, _mapped(held_out, found["eval"].kept)


def _mapped(prepared: Prepared, kept: Numbers) -> Dataset:
    dataset = Dataset.from_file(str(prepared.entry.rows)).remove_columns(list(ABOUT_ROW))
    # a selection makes every access slower, so none if all rows are kept
    if len(kept) < len(dataset):
        dataset = dataset.select(np.asarray(kept))
    return dataset
