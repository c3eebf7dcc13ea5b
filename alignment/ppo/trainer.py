"""PPOTrainer: proximal policy optimisation on TRL's RLOOTrainer.

One iteration is Algorithm 1 of PPO (arXiv 1707.06347) for a language model, as in InstructGPT
(arXiv 2203.02155), with the details of arXiv 2403.17031. The numbers are at the code:

1. Sample a response y ~ pi_old(. | x) to each prompt x.
2. Score it: r(x, y), less a penalty if it does not end.
3. KL penalty: r_t = -beta KL_t(pi_old || pi_ref), plus r(x, y) at the last token (arXiv 2203.02155,
   eq. 2; arXiv 1909.08593, eq. 2).
4. Advantages and returns by GAE from the critic's values (arXiv 1506.02438, eq. 16), whitened.
5. Update policy and critic on mini-batches, K epochs long: clipped surrogate, clipped value loss
   (arXiv 1707.06347, eq. 7 and 9).
6. Adapt beta (arXiv 1909.08593, sec. 2.2), log, look for signs that the run goes wrong.

TRL provides prompts, generation (transformers, continuous batching, vLLM), the calls of reward
functions, the reference (a frozen copy, or the policy with its adapter off), the sampler that
repeats prompts, and logging. The rest is in this package. Names of TRL and transformers that are
not public are listed in `tests/contracts/private_names.py`, with the reason for each.

Shapes: N responses of this process, T tokens of the longest one, F reward functions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignment.ppo.alarms import AlarmBell, report_alarms
from alignment.ppo.buffer import MicroBatch, RolloutBuffer
from alignment.ppo.critic import head_of, is_critic_parameter, split_groups
from alignment.ppo.evaluation import EvaluatingPPO
from alignment.ppo.experience import respond
from alignment.ppo.losses import StepSums, ppo_loss
from alignment.ppo.math import adapt_beta
from alignment.ppo.metrics import rollout_metrics
from alignment.ppo.models import prepare_models
from alignment.ppo.samples import sample_rows
from alignment.ppo.state import PPOState
from alignment.ppo.stopwatch import Stopwatch
from alignment.trackers.files import FileTracker

if TYPE_CHECKING:
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.responses import Responses
    from alignment.ppo.rollout import Rollout
    from alignment.trackers.base import Tracker


class PPOTrainer(EvaluatingPPO):
    """Train a policy against rewards with a critic, arXiv 1707.06347 as in arXiv 2203.02155.

    Takes the arguments of RLOOTrainer, `args` being a PPOConfig. `reward_funcs` may also hold what
    `alignment.ppo.rewards.load_rewards` returns. `tracker` gets samples and alarms; the default
    writes them to files in `output_dir`.

    Raises:
        ConfigError: before training, a key, a model or a reward cannot be used.
        DataError: at a rollout, a reward function gives no usable score.
    """

    loss_is_scaled_for_ga = True  # divided by the tokens of the mini-batch, not per micro-batch
    _name = "PPO"
    _tag_names = ["trl", "ppo"]  # noqa: RUF012 - a list in the parent
    _paper = {  # noqa: RUF012 - the parent's way of naming its paper
        "title": "Proximal Policy Optimization Algorithms",
        "id": "1707.06347",
        "citation": "@article{schulman2017proximal,\n"
        "    title = {{Proximal Policy Optimization Algorithms}},\n"
        "    author = {John Schulman and Filip Wolski and Prafulla Dhariwal and Alec Radford "
        "and Oleg Klimov},\n"
        "    year = 2017,\n    eprint = {arXiv:1707.06347},\n}",
    }

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: PPOConfig,
        *,
        tracker: Tracker | None = None,
        **kwargs: Any,
    ) -> None:
        model = os.fspath(model) if isinstance(model, Path) else model
        super().__init__(model, reward_funcs, args, **kwargs)
        self.ppo_state = PPOState(beta=args.beta)
        prepare_models(
            self.accelerator.unwrap_model(self.model),
            self.ref_model,
            [reward for reward in self.rewards if reward is not None],
            args=args,
            tokenizer=self.tokenizer,
            accelerator=self.accelerator,
        )
        self.buffer = RolloutBuffer(args, self._sum)
        self.alarms = AlarmBell(args, self.ppo_state.alarms)
        self._sums = StepSums()
        self._stopwatch = Stopwatch()
        self.tracker = tracker or FileTracker(Path(args.output_dir))

    # Steps 1 to 4: a rollout

    def _prepare_inputs(self, generation_batch: Any) -> MicroBatch:
        return self.next_micro_batch(generation_batch)

    def next_micro_batch(self, inputs: list[dict[str, Any]]) -> MicroBatch:
        """Return the rows of the next forward; sample a new rollout when the last is used up.

        Args:
            inputs: Rows of the data set, read when a rollout is sampled.
        """
        step = self.ppo_state.micro_steps
        if self.buffer.place(step) == 0 or self.buffer.rollout is None:
            self.ppo_state.rollouts += 1
            self.ppo_state.stopped = False
            self.buffer.put(self.roll_out(inputs), number=self.ppo_state.rollouts)
        return self.buffer.micro_batch(step)

    def roll_out(self, inputs: list[dict[str, Any]]) -> Rollout:
        """Sample responses, score them, and compute what the losses need of each token."""
        # 1. Sample y ~ pi_old(. | x).
        with self._stopwatch.measure("generate"):
            responses = self.sample(inputs)
        with self._stopwatch.measure("score"):
            # 2. Score r(x, y).
            rewards, scores = self.score(responses)
            rollout = self._pad(responses)
            # 3. KL penalty and 4. advantages, from what the old weights say of each token.
            plan = self.buffer.make_plan(rollout, number=self.ppo_state.rollouts, epoch=0)
            tokens = self._score_tokens(rollout, plan)
            experience = self._make_experience(
                rollout, tokens, scores, center=self.args.center_values
            )
        # What moved the values must move all that the critic says from now on.
        head_of(self.accelerator.unwrap_model(self.model)).offset += experience.shift
        found = rollout_metrics(
            experience,
            scores,
            rewards=self._by_name(rewards),
            ended=responses.ended,
            beta=self.ppo_state.beta,
            reduce=self._sum,
        )
        self.ppo_state.found = dict(found)
        self._log_samples(responses, scores, experience.kl)
        self._adapt_beta(found["objective/kl"], num_responses=len(rollout))
        self._note(found)
        return experience.rollout

    def _log_samples(self, responses: Responses, scores: Tensor, kl: Tensor) -> None:
        every, count = self.args.sample_steps, self.args.num_samples
        if every and (self.ppo_state.rollouts - 1) % every == 0 and self.is_world_process_zero():
            rows = sample_rows(
                responses.prompts[:count], responses.completions[:count], scores[:count], kl[:count]
            )
            self.tracker.log_table("samples", rows, step=self.state.global_step)

    def _adapt_beta(self, kl: float, *, num_responses: int) -> None:
        # 6. Adapt beta, for the next rollout: the rewards of this one are made.
        if self.args.kl_control == "adaptive":
            self.ppo_state.beta = adapt_beta(
                self.ppo_state.beta,
                kl,
                target=self.args.target_kl,
                horizon=self.args.kl_horizon,
                responses=num_responses * self.accelerator.num_processes,
            )

    # Step 5: updates

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Take one micro-step; none if the rest of this rollout is not used, for too much KL."""
        state = self.ppo_state
        # counted all the same, so that steps, schedule and checkpoints stay where they were
        if state.stopped and self.buffer.place(state.micro_steps):
            state.micro_steps += 1
            return torch.zeros((), device=self.accelerator.device)
        with self._stopwatch.measure("update"):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            state.micro_steps += 1
            if state.micro_steps % self.args.gradient_accumulation_steps == 0:
                self._finish_mini_batch(model)
        if state.stopped or not self.buffer.place(state.micro_steps):
            self._finish_rollout()
        return loss

    def update_on(self, rows: Rollout) -> None:
        """Send rows through forward and backward as an update does, with the policy training too.

        No optimizer step follows and no metric stays: this is how the longest batch is tried before
        training (`alignment.memory`). The gradients are left on the model.
        """
        batch = MicroBatch(rows, num_tokens=float(rows.response_mask.sum()))
        self.model.train()
        with self.compute_loss_context_manager():
            loss = self._loss(self.model, batch, sums=StepSums(), train_policy=True)
        self.accelerator.backward(loss)

    def _finish_rollout(self) -> None:
        # 6. Log, and look for signs that the run goes wrong.
        self._note(self._stopwatch.finish())
        warmed_up = self.state.global_step >= self.args.critic_warmup_steps
        rung = self.alarms.look(self.ppo_state.found, warmed_up=warmed_up)
        self._note({"alarms/count": float(len(self.alarms.memory["rung"]))})
        if rung and self.is_world_process_zero():
            report_alarms(rung, self.tracker, step=self.state.global_step)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: MicroBatch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Compute the loss of a micro-batch, as Trainer asks for it."""
        # the first advantages of a new critic are noise, which the policy need not learn
        train_policy = self.state.global_step >= self.args.critic_warmup_steps
        return self._loss(model, inputs, sums=self._sums, train_policy=train_policy)

    def _loss(
        self, model: nn.Module, batch: MicroBatch, *, sums: StepSums, train_policy: bool
    ) -> Tensor:
        flags: dict[str, Any] = {"output_router_logits": True} if self.aux_loss_enabled else {}
        output = respond(
            model,
            batch.rows,
            entropy="gradient" if self.args.entropy_coef else "value",
            with_values=True,
            detach_trunk=not train_policy,
            **flags,
        )
        loss = ppo_loss(output, batch.rows, args=self.args, sums=sums, train_policy=train_policy)
        # DDP averages gradients over processes; the tokens are already those of all of them.
        loss = loss.mul(self.accelerator.num_processes / max(batch.num_tokens, 1.0))
        if self.aux_loss_enabled and train_policy:
            steps = self.args.gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * output.aux_loss / steps
        return loss

    def _finish_mini_batch(self, model: nn.Module) -> None:
        found = self._sums.finish(self._sum)
        self._note(found)
        self.ppo_state.found |= found
        limit = self.args.target_approx_kl
        if limit is not None and found["policy/approx_kl"] > limit:
            model.zero_grad()  # no gradient at all: the optimizer then leaves every weight alone
            self.ppo_state.stopped = True
        self._metrics["train"]["policy/stopped"].append(float(self.ppo_state.stopped))
        if self.state.global_step < self.args.critic_warmup_steps:
            # The policy's loss weighs 0 then, but an optimizer moves weights by a gradient of 0 too
            # (weight decay, momentum). It skips those without one.
            for name, parameter in model.named_parameters():
                if not is_critic_parameter(name):
                    parameter.grad = None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Give the critic's parameters groups with a learning rate of their own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new:
            named = (self.model if model is None else model).named_parameters()
            critic = {id(p) for name, p in named if is_critic_parameter(name)}
            split_groups(optimizer, critic, lr=self.args.critic_learning_rate)
        return optimizer

    # Logging

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; the alarms also read the held-out measure of an evaluation."""
        super().log(logs, start_time)
        measure = self.args.metric_for_best_model or "objective/score"
        value = logs.get(f"eval_{measure.removeprefix('eval_')}")
        # an alarm compares upwards; a loss falls as it gets better
        if isinstance(value, float):
            self.alarms.note_held_out(-value if self.args.greater_is_better is False else value)

    def _note(self, found: dict[str, float]) -> None:
        for name, value in found.items():
            self._metrics["train"][name].append(value)
