"""A PPOTrainer on the tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from ppo_cases import PROMPTS, share_of_e, tiny_args
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.ppo.trainer import PPOTrainer


@pytest.fixture
def make_trainer(tiny_dir: Path, tmp_path: Path) -> Callable[..., PPOTrainer]:
    """Build a trainer; keywords are keys of PPOConfig, but for the trainer's own arguments.

    The tiny model hardly ever ends a response; where the last `num_ends` tokens of its vocabulary
    all do, responses have many lengths.
    """

    def make(
        *,
        model: Any = None,
        num_ends: int = 0,
        reward_funcs: Any = share_of_e,
        prompts: list[Any] | None = None,
        folder: Path = tmp_path / "run",
        trainer: dict[str, Any] | None = None,
        **keys: Any,
    ) -> PPOTrainer:
        rows = [
            {"prompt": p if isinstance(p, list) else [{"role": "user", "content": p}]}
            for p in (prompts or PROMPTS)
        ]
        if num_ends:
            model = AutoModelForCausalLM.from_pretrained(tiny_dir)
            size = model.config.vocab_size
            model.generation_config.eos_token_id = list(range(size - num_ends, size))
        return PPOTrainer(
            model=tiny_dir if model is None else model,
            args=tiny_args(folder, **keys),
            reward_funcs=reward_funcs,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(tiny_dir),
            **(trainer or {}),
        )

    return make
