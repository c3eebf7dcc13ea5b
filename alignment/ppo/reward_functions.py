"""Rewards written in Python, with the scores that they return checked."""

import asyncio
import inspect
import math
import numbers
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.trainer.utils import get_callable_name

from alignment.errors import ConfigError, DataError


class ScoreStats(NamedTuple):
    """Mean and deviation of a reward model's scores on reference answers."""

    mean: float
    std: float


class Reward:
    """Scores completions; called as TRL calls a reward function.

    Attributes:
        stats: The statistics that `normalize_reward` uses; None if the reward has none.
    """

    stats: ScoreStats | None = None

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, **columns: Any) -> list[float | None]:
        """Score `completions` given `prompts`; None for a row that it does not fit."""
        raise NotImplementedError

    def place(self, accelerator: Any) -> None:
        """Move its model, if it has one, to the device of this process."""


class FunctionReward(Reward):
    """A Python function with TRL's signature: (prompts, completions, completion_ids, **columns).

    Other columns of the rows come as keywords. The function may be async.
    """

    def __init__(self, function: Callable[..., Any], *, name: str) -> None:
        super().__init__(name)
        self.function = function

    def __call__(self, **columns: Any) -> list[float | None]:
        """Call the function and check what it returns.

        Raises:
            DataError: A wrong count, NaN, infinity or something that is not a number.
        """
        answer = self.function(**columns)
        if inspect.iscoroutine(answer):
            answer = asyncio.run(answer)
        return check_scores(answer, count=len(columns["completions"]), source=self.__name__)


def check_scores(answer: Any, *, count: int, source: str) -> list[float | None]:
    """Return the scores as floats, None for a row to which the reward does not apply.

    Raises:
        DataError: One of them cannot be used; names the source and the row.
    """
    if isinstance(answer, Tensor | np.ndarray):
        answer = answer.tolist()
    if not isinstance(answer, list | tuple):
        raise DataError(
            f"reward {source}: returned {type(answer).__name__}, not a list of numbers",
            "return one number for each completion",
        )
    if len(answer) != count:
        raise DataError(
            f"reward {source}: returned {len(answer)} scores for {count} completions",
            "return one number for each completion, None if it does not apply",
        )
    return [_check_score(score, row, source) for row, score in enumerate(answer)]


def _check_score(score: Any, row: int, source: str) -> float | None:
    if score is None:
        return None
    # as in the list of one-element tensors that a model call in a loop gives
    if isinstance(score, Tensor) and score.numel() == 1:
        score = score.item()
    # float() would also take '1.0', which is more likely a wrong column than a score
    if not isinstance(score, numbers.Real | np.generic) or isinstance(score, np.str_):
        raise DataError(
            f"reward {source}: row {row} is {score!r} ({type(score).__name__}), not a number",
            "return floats, or None if it does not apply",
        )
    if not math.isfinite(float(score)):
        raise DataError(
            f"reward {source}: row {row} is {float(score)}",
            "return a finite number, or None if it does not apply",
        )
    return float(score)


def as_rewards(reward_funcs: Any) -> list[Any]:
    """Wrap plain Python functions, so that what they return is checked.

    Raises:
        ConfigError: One is a model with more than one label.
    """
    many = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    for f in many:
        if isinstance(f, PreTrainedModel) and f.config.num_labels != 1:
            raise ConfigError(
                f"reward {f.config.name_or_path or type(f).__name__}: it has "
                f"{f.config.num_labels} labels, a reward model has 1"
            )
    return [
        f
        if isinstance(f, str | nn.Module | Reward)
        else FunctionReward(f, name=get_callable_name(f))
        for f in many
    ]


def distinct(names: list[str]) -> list[str]:
    """Number equal names, so that each reward has metrics of its own."""
    seen = Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found
