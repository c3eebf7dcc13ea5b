"""Steps 1 and 2 of PPO on TRL's RLOOTrainer: responses to prompts, and their scores.

Shapes: N responses of this process, F reward functions.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import ProcessorMixin

from alignment.ppo.checkpoints import CheckpointedPPO
from alignment.ppo.checks import check_count, check_ends, check_stats
from alignment.ppo.critic import policy_of, without_critic
from alignment.ppo.experience import combine_scores
from alignment.ppo.prompts import Prompts, decode_prompts
from alignment.ppo.reward_functions import Reward, as_rewards, distinct
from alignment.ppo.sampler import EpochSampler

if TYPE_CHECKING:
    from alignment.ppo.config import PPOConfig


class Responses(NamedTuple):
    """Sampled responses, in lists of N.

    Attributes:
        rows: The rows of the data set, with their prompts as text or messages.
        prompts: Their prompts.
        completions: The responses as text or messages.
        prompt_ids: Token ids of the prompts.
        ids: Token ids of the responses, with the EOS of those that ended.
        ended: Whether a response ended by itself, `(N,)`.
    """

    rows: list[dict[str, Any]]
    prompts: list[Any]
    completions: list[Any]
    prompt_ids: list[list[int]]
    ids: list[list[int]]
    ended: Tensor


class SamplingPPO(CheckpointedPPO):
    """Samples and scores responses as RLOOTrainer does, from prompts that are tokenised before.

    Raises:
        ConfigError: the policy cannot end a response, or a reward has no statistics.
        DataError: prompts that cannot be used.
    """

    def __init__(self, model: Any, reward_funcs: Any, args: PPOConfig, **kwargs: Any) -> None:
        super().__init__(model, as_rewards(reward_funcs), args, **kwargs)
        processing = self.processing_class
        self.tokenizer = (
            processing.tokenizer if isinstance(processing, ProcessorMixin) else processing
        )
        # all checks here come before the first rollout, which may take minutes
        check_ends(self.eos_token_ids, self.tokenizer)
        per_rollout = self.args.generation_batch_size // self.num_generations
        check_count(self.train_dataset, num_prompts=per_rollout)
        self._prompts = Prompts(self.tokenizer, self.chat_template_kwargs)
        self._prompt_ids: list[list[int]] = []
        for name, dataset in (("", self.train_dataset), ("eval ", self.eval_dataset)):
            self._prompts.check(
                dataset,
                name=name,
                model=self.model,
                max_completion_length=self.max_completion_length,
            )
        self.reward_func_names: list[str] = distinct(self.reward_func_names)
        self.rewards = [f if isinstance(f, Reward) else None for f in self.reward_funcs]
        if args.normalize_reward:
            check_stats(dict(zip(self.reward_func_names, self.rewards, strict=True)))

    def sample(self, rows: list[dict[str, Any]]) -> Responses:
        """Sample a response to the prompt of each row, y ~ pi_old(. | x)."""
        rows = decode_prompts(rows)
        prompts = [row["prompt"] for row in rows]
        self._prompt_ids = self._prompts.ids(rows)
        with self._policy_for_vllm():
            prompt_ids, response_ids, completions = self._generate(prompts)
        ended = [bool(ids) and ids[-1] in self.eos_token_ids for ids in response_ids]
        is_end = torch.tensor(ended, device=self.accelerator.device)
        return Responses(rows, prompts, completions, prompt_ids, response_ids, is_end)

    def score(self, responses: Responses) -> tuple[Tensor, Tensor]:
        """Score responses.

        Returns:
            What each reward function said, `(N, F)`, NaN if it does not apply; and r(x, y), `(N,)`.
        """
        rewards = self._calculate_rewards(
            responses.rows, responses.prompts, responses.completions, responses.ids
        )
        # TRL gathers the rewards of all processes.
        first = self.args.process_index * len(responses.prompts)
        rewards = rewards[first : first + len(responses.prompts)]
        scores = combine_scores(
            rewards.clone(),
            weights=self.reward_weights.to(rewards.device),
            stats=[reward.stats if reward is not None else None for reward in self.rewards],
            ended=responses.ended,
            args=self.args,
        )
        return rewards, scores

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self._prompt_ids, None, {}  # rendered and tokenised in one place, `Prompts`

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        return EpochSampler(
            super()._get_train_sampler(dataset), epoch=lambda: int(self.state.epoch or 0)
        )

    def _policy_for_vllm(self) -> AbstractContextManager[None]:
        """Take the critic off the policy while weights are sent to vLLM, which knows no critic."""
        if not self.use_vllm:
            return nullcontext()
        return without_critic(self._policy())

    def _policy(self) -> Any:
        """The causal language model itself, without wrappers."""
        return policy_of(self.accelerator.unwrap_model(self.model))
