"""A forward of models without storage: its inputs, its precision, and who is the reference."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from alignment.plan.models import Models
from alignment.plan.work import Work


def inputs_of(rows: int, length: int) -> dict[str, Tensor]:
    """Token ids and mask of a batch, `(rows, length)`."""
    shape = (rows, length)
    return {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.ones(shape, dtype=torch.long),
    }


@contextmanager
def as_reference(models: Models) -> Iterator[Any]:
    """The reference: a model of its own, or the policy without its adapter."""
    if models.reference is not None:
        yield models.reference
        return
    with models.policy.disable_adapter():
        yield models.policy


def autocast(work: Work) -> Any:
    """The precision of the forward."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if work.autocast else nullcontext()
