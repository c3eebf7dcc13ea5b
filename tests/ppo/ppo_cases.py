"""A reward that a rule gives, small arguments, and what the tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.ppo.config import PPOConfig

if TYPE_CHECKING:
    from alignment.ppo.trainer import PPOTrainer

PROMPTS = [f"Say hello {number}." for number in range(24)]


def share_of_e(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """How many letters e, in eighths: easy to learn and never seen by the loss."""
    return [text_of(completion).count("e") / 8 for completion in completions]


def differs(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Another score for nearly every response: equal ones would move no policy."""
    return [sum(ids) % 7 / 7 for ids in completion_ids]


def text_of(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]


def tiny_args(folder: Path, **keys: Any) -> PPOConfig:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 2,
        "num_ppo_epochs": 2,
        "max_completion_length": 8,
        "learning_rate": 3e-3,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "activation_checkpointing": False,
        "lr_scheduler_type": "constant",
    }
    return PPOConfig(str(folder), **(defaults | keys))


def logged(trainer: PPOTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]
