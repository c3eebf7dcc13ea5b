"""The evaluation of PPO: loss and metrics of all held-out responses together.

Shapes: N responses of this process, F reward functions.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alignment.ppo.experience import (
    Experience,
    TokenScores,
    make_experience,
    reference_of,
    score_tokens,
)
from alignment.ppo.held_out import HeldOutBatches, Scored, join, own_noise
from alignment.ppo.losses import StepSums, ppo_loss
from alignment.ppo.metrics import length_metrics, rollout_metrics
from alignment.ppo.responses import Responses, SamplingPPO
from alignment.ppo.rollout import Rollout, pad_rollout


class EvaluatingPPO(SamplingPPO):
    """Takes all held-out prompts as one rollout, so that no batch size changes a metric."""

    _held_out: list[Scored]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Batches in which every prompt comes `num_generations_eval` times over all processes."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        batches = HeldOutBatches(
            len(rows),
            repeats=self.num_generations_eval,
            size=self.args.eval_batch_size,
            rank=self.args.process_index,
            processes=self.args.world_size,
        )
        # prompts are few and short: no workers
        return DataLoader(rows, batch_sampler=batches, collate_fn=self.data_collator)

    def prediction_step(
        self, model: nn.Module, inputs: list[dict[str, Any]], *args: Any, **kwargs: Any
    ) -> tuple[None, None, None]:
        """Sample and score a batch; the metrics are those of all batches together."""
        batches = self.callback_handler.eval_dataloader.batch_sampler
        number = len(self._held_out)
        noise = own_noise(self._policy(), batches.numbers[number], seed=self.args.seed)
        # continuous batching asks for processors too, but has rows of several steps in a batch
        with nullcontext() if self.use_transformers_continuous_batching else noise:
            responses = self.sample(inputs)
        rewards, scores = self.score(responses)
        rollout = self._pad(responses)
        tokens = self._score_tokens(rollout, [torch.arange(len(rollout))], with_entropy=True)
        self._held_out.append(Scored(responses, rewards, scores, tokens, batches.real(number)))
        return None, None, None

    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate as Trainer does; loss and metrics are those of all responses together.

        The loss is without that of a mixture of experts' router, which depends on the batch.
        """
        self._held_out = []
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        found = self._held_out_metrics(join(self._held_out))
        output.metrics[f"{kwargs['metric_key_prefix']}_loss"] = found.pop("loss")
        self._metrics["eval"].update({name: [value] for name, value in found.items()})
        return output

    def _held_out_metrics(self, found: Scored) -> dict[str, float]:
        responses, tokens = found.responses, found.tokens
        real = torch.tensor(found.real, device=self.accelerator.device)
        rollout = self._pad(responses, found.real)
        # held-out prompts must not move the critic
        experience = self._make_experience(rollout, tokens, found.scores, center=False)
        metrics = rollout_metrics(
            experience,
            found.scores,
            rewards=self._by_name(found.rewards),
            ended=responses.ended,
            beta=self.ppo_state.beta,
            reduce=self._sum,
            real=real,
        )
        sums = StepSums()
        loss = ppo_loss(
            tokens.as_output(),
            experience.rollout,
            args=self.args,
            sums=sums,
            train_policy=self.state.global_step >= self.args.critic_warmup_steps,
        )
        total = self._sum(torch.stack([loss, rollout.response_mask.sum()]))
        lengths = [
            len(ids) for ids, counts in zip(responses.ids, found.real, strict=True) if counts
        ]
        return {
            "loss": float(total[0] / total[1].clamp(min=1)),
            **metrics,
            **sums.finish(self._sum),
            **length_metrics(gather_object(lengths), gather_object(responses.ended[real].tolist())),
        }

    # What training needs of a rollout as well

    def _pad(self, responses: Responses, real: Sequence[bool] | None = None) -> Rollout:
        """Pad responses; ``real`` is whether each counts, None: all do."""
        ended = responses.ended.tolist()
        return pad_rollout(
            responses.prompt_ids,
            responses.ids,
            pad_token_id=self.tokenizer.pad_token_id,
            counts=[
                counts and (is_end or not self.args.mask_truncated_completions)
                for counts, is_end in zip(real or [True] * len(ended), ended, strict=True)
            ],
            device=self.accelerator.device,
        )

    def _by_name(self, rewards: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.reward_func_names, rewards.unbind(dim=1), strict=True))

    def _score_tokens(
        self, rollout: Rollout, plan: list[Tensor], *, with_entropy: bool = False
    ) -> TokenScores:
        policy = self.accelerator.unwrap_model(self.model)
        return score_tokens(
            self.model,
            rollout,
            # without a KL penalty, its forward would be for nothing
            reference=reference_of(policy, self.ref_model) if self.args.beta > 0 else None,
            plan=plan,
            autocast=self.accelerator.autocast,
            with_entropy=with_entropy,
        )

    def _make_experience(
        self, rollout: Rollout, tokens: TokenScores, scores: Tensor, *, center: bool
    ) -> Experience:
        return make_experience(
            rollout,
            tokens,
            scores=scores,
            args=self.args,
            beta=self.ppo_state.beta,
            center=center,
            reduce=self._sum,
        )

    def _sum(self, x: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(x, reduction="sum")
        return total
