"""PPOTrainer: proximal policy optimisation on TRL's RLOOTrainer.

What it takes from TRL: prompts and chat templates, generation (transformers, continuous batching,
vLLM), reward functions, the reference (a frozen copy, or the policy with its adapter off), the
sampler that repeats prompts, logging. What it adds is in this package: a critic (`critic`), one
forward for log-probabilities and values (`forward`), rollouts and mini-batches (`rollout`), KL in
the reward, GAE and whitening (`experience`, `math`) and the clipped losses (`losses`).

Names of TRL and transformers that are used here and are not public are listed, with the reason for
each, in `tests/contracts/private_names.py`.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import ProcessorMixin

from alignment.data.load import decode_prompts
from alignment.ppo.adapters import BORROWED, keeping_activations
from alignment.ppo.alarms import AlarmBell, report_alarms
from alignment.ppo.buffer import MicroBatch, RolloutBuffer
from alignment.ppo.checkpoints import CheckpointedPPO
from alignment.ppo.checks import check_count, check_ends, check_stats
from alignment.ppo.config import PPOConfig
from alignment.ppo.critic import (
    head_of,
    is_critic_parameter,
    keep_critic_apart,
    make_critic,
    policy_of,
    split_groups,
    without_critic,
)
from alignment.ppo.experience import (
    Experience,
    TokenScores,
    combine_scores,
    make_experience,
    reference_of,
    respond,
    score_tokens,
)
from alignment.ppo.forward import add_response_forward
from alignment.ppo.losses import StepSums, ppo_loss
from alignment.ppo.metrics import rollout_metrics
from alignment.ppo.prompts import Prompts
from alignment.ppo.reward_functions import Reward, as_rewards, distinct
from alignment.ppo.reward_models import AdapterReward, ModelReward
from alignment.ppo.rollout import Rollout, pad_rollout
from alignment.ppo.sampler import EpochSampler
from alignment.ppo.samples import sample_rows
from alignment.ppo.state import PPOState, make_kl_control
from alignment.trackers.base import Tracker
from alignment.trackers.files import FileTracker


class PPOTrainer(CheckpointedPPO):
    """Train a policy against rewards with a critic, arXiv 1707.06347 as in arXiv 2203.02155.

    Takes the arguments of RLOOTrainer, `args` being a PPOConfig. `reward_funcs` may also hold what
    `alignment.ppo.rewards.load_rewards` returns. `tracker` gets samples and alarms; the default
    writes them to files in `output_dir`.

    Raises:
        ConfigError: before training, where a key, a model or a reward cannot be used.
        DataError: at a rollout, where a reward function gives no usable score.
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
        super().__init__(model, as_rewards(reward_funcs), args, **kwargs)
        processing = self.processing_class
        self.tokenizer = (
            processing.tokenizer if isinstance(processing, ProcessorMixin) else processing
        )
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
        self.ppo_state = PPOState(beta=args.beta)
        self.kl_control = make_kl_control(args)
        self.reward_func_names: list[str] = distinct(self.reward_func_names)
        self._rewards = [f if isinstance(f, Reward) else None for f in self.reward_funcs]
        if args.normalize_reward:
            check_stats(dict(zip(self.reward_func_names, self._rewards, strict=True)))
        self._add_critic()
        self.buffer = RolloutBuffer(args, self._sum)
        self.alarms = AlarmBell(args, self.ppo_state.alarms)
        self._sums = StepSums()
        self._seconds: dict[str, float] = defaultdict(float)
        self.tracker = tracker or FileTracker(Path(args.output_dir))

    def _add_critic(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        policy = policy_of(model)
        for number, reward in enumerate(self._rewards):
            if isinstance(reward, AdapterReward) and self.args.share_base:
                reward.share(model, f"{BORROWED}{number}")
        critic = make_critic(
            model,
            args=self.args,
            rewards=[reward for reward in self._rewards if isinstance(reward, ModelReward)],
            tokenizer=self.tokenizer,
        )
        temperature = self.args.temperature
        add_response_forward(
            policy, temperature=temperature, critic=critic.to(self.accelerator.device)
        )
        keep_critic_apart(policy)
        if self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model)
            add_response_forward(reference, temperature=temperature)
        for reward in self._rewards:
            if reward is not None:
                reward.place(self.accelerator)

    # Rollouts

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        return EpochSampler(
            super()._get_train_sampler(dataset), epoch=lambda: int(self.state.epoch or 0)
        )

    def _prepare_inputs(self, generation_batch: Any) -> MicroBatch:
        return self.next_micro_batch(generation_batch)

    def next_micro_batch(self, inputs: list[dict[str, Any]]) -> MicroBatch:
        """Return the rows of the next forward; sample a new rollout when the last is used up.

        In an evaluation every batch is a rollout of its own.

        Args:
            inputs: Rows of the data set, read when a rollout is sampled.
        """
        if not self.model.training:
            rollout = self.roll_out(inputs)
            tokens = self._sum(rollout.response_mask.sum().float())
            return MicroBatch(rollout, tokens.item())
        step = self.ppo_state.micro_steps
        if self.buffer.place(step) == 0 or self.buffer.rollout is None:
            self.ppo_state.rollouts += 1
            self.ppo_state.stopped = False
            self.buffer.put(self.roll_out(inputs), number=self.ppo_state.rollouts)
        return self.buffer.micro_batch(step)

    def roll_out(self, inputs: list[dict[str, Any]]) -> Rollout:
        """Sample responses, score them, and compute what the losses need of each token."""
        args, device = self.args, self.accelerator.device
        inputs = decode_prompts(inputs)
        prompts = [row["prompt"] for row in inputs]
        self._prompt_ids = self._prompts.ids(inputs)
        with self._clock("generate"), self._policy_for_vllm():
            prompt_ids, response_ids, completions = self._generate(prompts)
        with self._clock("score"):
            rewards = self._calculate_rewards(inputs, prompts, completions, response_ids)
            first = args.process_index * len(prompts)
            rewards = rewards[first : first + len(prompts)]
            ended = [bool(ids) and ids[-1] in self.eos_token_ids for ids in response_ids]
            scores = combine_scores(
                rewards.clone(),
                weights=self.reward_weights.to(device),
                stats=[reward.stats if reward is not None else None for reward in self._rewards],
                ended=torch.tensor(ended, device=device),
                args=args,
            )
            rollout = pad_rollout(
                prompt_ids,
                response_ids,
                pad_token_id=self.tokenizer.pad_token_id,
                counts=[end or not args.mask_truncated_completions for end in ended],
                device=device,
            )
            experience = self._make_experience(rollout, self._score_tokens(rollout), scores)
        mode = "train" if self.model.training else "eval"
        found = rollout_metrics(
            experience,
            scores,
            rewards=dict(zip(self.reward_func_names, rewards.unbind(dim=1), strict=True)),
            ended=torch.tensor(ended, device=device),
            beta=self.ppo_state.beta,
            reduce=self._sum,
        )
        self._note(found, mode=mode)
        if mode == "train":
            self.ppo_state.found = dict(found)
            self._after_rollout(prompts, completions, scores, experience.kl, found)
        return experience.rollout

    def _score_tokens(self, rollout: Rollout) -> TokenScores:
        policy = self.accelerator.unwrap_model(self.model)
        plan = [torch.arange(len(rollout))]
        if self.model.training:
            plan = self.buffer.make_plan(rollout, number=self.ppo_state.rollouts, epoch=0)
        with keeping_activations(self.model):
            return score_tokens(
                self.model,
                rollout,
                reference=reference_of(policy, self.ref_model) if self.args.beta > 0 else None,
                plan=plan,
                autocast=self.accelerator.autocast,
            )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self._prompt_ids, None, {}  # rendered and tokenised in one place, `Prompts`

    def _make_experience(self, rollout: Rollout, tokens: TokenScores, scores: Tensor) -> Experience:
        experience = make_experience(
            rollout,
            tokens,
            scores=scores,
            args=self.args,
            beta=self.ppo_state.beta,
            center=self.args.center_values and self.model.training,
            reduce=self._sum,
        )
        head_of(self.accelerator.unwrap_model(self.model)).offset += experience.shift
        return experience

    def _after_rollout(
        self,
        prompts: list[Any],
        completions: list[Any],
        scores: Tensor,
        kl: Tensor,
        found: dict[str, float],
    ) -> None:
        every = self.args.sample_steps
        if every and (self.ppo_state.rollouts - 1) % every == 0 and self.is_world_process_zero():
            count = self.args.num_samples
            rows = sample_rows(prompts[:count], completions[:count], scores[:count], kl[:count])
            self.tracker.log_table("samples", rows, step=self.state.global_step)
        self.kl_control.beta = self.ppo_state.beta
        self.kl_control.update(found["objective/kl"], len(prompts) * self.accelerator.num_processes)
        self.ppo_state.beta = self.kl_control.beta

    # Updates

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Take one micro-step; nothing where this rollout was given up for too much KL."""
        state = self.ppo_state
        if state.stopped and self.buffer.place(state.micro_steps):
            state.micro_steps += 1
            return torch.zeros((), device=self.accelerator.device)
        before, spent = time.perf_counter(), sum(self._seconds.values())
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        state.micro_steps += 1
        if state.micro_steps % self.args.gradient_accumulation_steps == 0:
            self._finish_mini_batch(model)
        elapsed = time.perf_counter() - before
        self._seconds["update"] += elapsed - (sum(self._seconds.values()) - spent)
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
        self._note({f"time/{name}": s for name, s in self._seconds.items()}, mode="train")
        self._seconds.clear()
        warmed_up = self.state.global_step >= self.args.critic_warmup_steps
        rung = self.alarms.look(self.ppo_state.found, warmed_up=warmed_up)
        self._note({"alarms/count": float(len(self.alarms.memory["rung"]))}, mode="train")
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
        train_policy = self.state.global_step >= self.args.critic_warmup_steps
        loss = self._loss(model, inputs, sums=self._sums, train_policy=train_policy)
        if not self.model.training:
            self._note(self._sums.finish(self._sum), mode="eval")
        return loss

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
            steps = self.args.gradient_accumulation_steps if self.model.training else 1
            loss = loss + self.router_aux_loss_coef * output.aux_loss / steps
        return loss

    def _finish_mini_batch(self, model: nn.Module) -> None:
        found = self._sums.finish(self._sum)
        self._note(found, mode="train")
        self.ppo_state.found |= found
        limit = self.args.target_approx_kl
        if limit is not None and found["policy/approx_kl"] > limit:
            model.zero_grad()  # no gradient at all: the optimizer then leaves every weight alone
            self.ppo_state.stopped = True
        self._metrics["train"]["policy/stopped"].append(float(self.ppo_state.stopped))
        if self.state.global_step < self.args.critic_warmup_steps:
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

    # Small things

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; an evaluation also tells the alarms how the held-out measure stands."""
        super().log(logs, start_time)
        measure = self.args.metric_for_best_model or "objective/score"
        value = logs.get(f"eval_{measure.removeprefix('eval_')}")
        if isinstance(value, float):
            self.alarms.note_held_out(-value if self.args.greater_is_better is False else value)

    def _note(self, found: dict[str, float], *, mode: str) -> None:
        for name, value in found.items():
            self._metrics[mode][name].append(value)

    def _sum(self, x: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(x, reduction="sum")
        return total

    def _policy_for_vllm(self) -> AbstractContextManager[None]:
        """While weights are sent to vLLM, which knows the policy alone, take the critic off it."""
        if not self.use_vllm:
            return nullcontext()
        return without_critic(policy_of(self.accelerator.unwrap_model(self.model)))

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        before = time.perf_counter()
        yield
        if self.model.training:
            self._seconds[name] += time.perf_counter() - before
