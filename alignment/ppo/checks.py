"""What can be seen to be wrong before the first rollout."""

from collections.abc import Iterator
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.errors import ConfigError, DataError
from alignment.ppo.reward_functions import Reward
from alignment.ppo.reward_models import ModelReward

_TEMPLATE_BYTES = 256
"""More than what a chat template adds around a message or two."""


def check_ends(eos_token_ids: list[int | None], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a policy that cannot end a response.

    Raises:
        ConfigError: where neither the tokenizer nor the model names an EOS token.
    """
    if not [token for token in eos_token_ids if token is not None]:
        raise ConfigError(
            f"{tokenizer.name_or_path}: the policy has no EOS token, so no response would end",
            "set eos_token in its tokenizer_config.json or eos_token_id in generation_config.json",
        )


def check_stats(rewards: dict[str, Reward | None]) -> None:
    """Refuse `normalize_reward` where it would change nothing, or not the reward model.

    Raises:
        ConfigError: naming a reward without statistics.
    """
    known = [reward for reward in rewards.values() if reward is not None and reward.stats]
    for name, reward in rewards.items():
        if reward is not None and reward.stats:
            continue
        if isinstance(reward, ModelReward) or not known:
            raise ConfigError(
                f"normalize_reward: reward {name} has no statistics of its scores "
                "(reward_stats.json)",
                "train the reward model with the rm stage, or set normalize_reward: false",
            )


def check_count(dataset: Any, *, num_prompts: int) -> None:
    """Refuse a data set that does not fill one rollout: nothing would be trained.

    Raises:
        DataError: with both numbers.
    """
    if isinstance(dataset, Dataset) and len(dataset) < num_prompts:
        raise DataError(
            f"{len(dataset)} prompts, and one rollout takes {num_prompts}",
            "give more prompts, or lower per_device_train_batch_size or steps_per_generation",
        )


def check_prompts(
    dataset: Any,
    *,
    name: str = "",
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_completion_length: int,
    template: dict[str, Any],
) -> None:
    """Refuse prompts that leave no room for the response in the model's positions.

    Raises:
        DataError: naming the first such row.
    """
    limit = model.config.get_text_config().to_dict().get("max_position_embeddings")
    if limit is None:
        return
    budget = limit - max_completion_length
    found = long_prompts(dataset, budget=budget, tokenizer=tokenizer, template=template)
    for row, length in found:
        raise DataError(
            f"{name}row {row}: the prompt has {length} tokens, and with max_completion_length "
            f"{max_completion_length} the model's {limit} positions leave room for {budget}",
            "shorten or filter the prompt, or lower max_completion_length",
        )


def long_prompts(
    dataset: Any, *, budget: int, tokenizer: PreTrainedTokenizerBase, template: dict[str, Any]
) -> Iterator[tuple[int, int]]:
    """Find prompts of more tokens than the budget; yield their rows, from 1, and their tokens.

    Only prompts whose bytes could be too many tokens are tokenised; a stream is not read ahead.

    Raises:
        DataError: where the rows have no column of prompts.
    """
    if not isinstance(dataset, Dataset):
        return
    if "prompt" not in dataset.column_names:
        raise DataError(
            f"the rows have no column `prompt` (they have {', '.join(dataset.column_names)})"
        )
    for row, prompt in enumerate(dataset["prompt"], start=1):
        if len(str(prompt).encode()) + _TEMPLATE_BYTES <= budget:
            continue
        length = _num_tokens(prompt, tokenizer, template)
        if length > budget:
            yield row, length


def _num_tokens(prompt: Any, tokenizer: Any, template: dict[str, Any]) -> int:
    if isinstance(prompt, str):
        return len(tokenizer(prompt)["input_ids"])
    ids = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **template
    )["input_ids"]
    return len(ids)
