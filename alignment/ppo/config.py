"""Every key of PPO: TRL's RLOOConfig plus a critic, GAE, KL control and clipping.

How batches follow from TRL's keys, for one process (with W processes, W times as many):

* a rollout is `per_device_train_batch_size * steps_per_generation` responses;
* a mini-batch, one optimizer step, is `per_device_train_batch_size *
  gradient_accumulation_steps` of them, so a rollout has `num_mini_batches =
  steps_per_generation / gradient_accumulation_steps`, 1 if `steps_per_generation` is not set;
* a rollout is used for `num_ppo_epochs * num_mini_batches` optimizer steps, and `max_steps`
  counts optimizer steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import GenerationConfig
from trl import RLOOConfig

from alignment.errors import ConfigError
from alignment.settings.precision import uses_bf16

#: Keys of RLOO that have another name in PPO, with their default there.
_OUR_WORDS = {
    "num_iterations": ("num_ppo_epochs", 1),
    "epsilon": ("cliprange", 0.2),
    "normalize_advantages": ("whiten_advantages", False),
    "reward_clip_range": ("score_clip", None),
}

_CHOICES = {
    "kl_estimator": ("k1", "k2", "k3"),
    "kl_control": ("fixed", "adaptive"),
    "critic": ("head", "model", "lora"),
    "critic_init": ("auto", "reward_model", "policy"),
}
_FRACTIONS = ("gamma", "lam", "reward_accuracy_gate")
_COUNTS = ("num_ppo_epochs", "num_generations", "kl_horizon", "num_samples")
_NOT_NEGATIVE = (
    "beta",
    "vf_coef",
    "critic_warmup_steps",
    "sample_steps",
    "reward_retries",
    "alarm_patience",
)
_POSITIVE = (
    "target_kl",
    "cliprange",
    "cliprange_value",
    "temperature",
    "reward_timeout",
    "score_clip",
    "target_approx_kl",
    "critic_learning_rate",
)
_RULES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (_FRACTIONS, lambda x: 0 <= x <= 1, "within [0, 1]"),
    (_COUNTS, lambda x: x >= 1, ">= 1"),
    (_NOT_NEGATIVE, lambda x: x >= 0, ">= 0"),
    (_POSITIVE, lambda x: x > 0, "> 0"),
)


def _key(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class PPOConfig(RLOOConfig):  # type: ignore[misc]
    """Arguments of PPOTrainer: those of RLOOConfig with PPO's own, each with its source.

    Raises:
        ConfigError: a value that cannot be meant, or that does not fit another.
    """

    # Learning
    learning_rate: float = _key(
        1e-6, "Learning rate of the policy. 1e-6 (full) to 1e-5 (LoRA) in OpenRLHF, verl and TRL."
    )
    critic_learning_rate: float | None = _key(
        None,
        "Learning rate of the critic. Default: 1e-5 (verl; OpenRLHF 9e-6), or `learning_rate` if "
        "that is higher. Its schedule is the policy's.",
    )
    critic_warmup_steps: int = _key(
        0,
        "Optimizer steps at the start that train the critic alone (verl: critic_warmup). 0: none.",
    )
    num_ppo_epochs: int = _key(
        4,
        "K in arXiv 1707.06347: passes over each rollout, each in a new order. "
        "4 in InstructGPT and arXiv 2403.17031; 1 in OpenRLHF and verl.",
    )
    num_generations: int = _key(
        1, "Responses sampled for each prompt. 1 in InstructGPT; more lower the variance."
    )
    disable_dropout: bool = _key(
        True,
        "Turn dropout off (arXiv 2403.17031, detail 9). With dropout the ratio is not 1 on the "
        "first mini-batch.",
    )
    bf16: bool | None = _key(
        None, "Mixed precision in bfloat16. Default: on if the GPU supports it, else off."
    )

    # Reward
    reward_model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "One or several rewards: the folder or hub name of a sequence classifier with "
            "one label (also a LoRA adapter), `module:function` or `file.py:function` with TRL's "
            "reward signature, or the http(s) URL of a scorer."
        },
    )
    reward_accuracy_gate: float = _key(
        0.55,
        "PPO refuses a reward model whose held-out accuracy (in its run.json) is lower; 0.5 is "
        "guessing. 0 turns the gate off.",
    )
    normalize_reward: bool = _key(
        False,
        "Subtract the mean and divide by the deviation of the reward model's scores on reference "
        "answers (its reward_stats.json). arXiv 2403.17031, detail 4; InstructGPT also subtracts "
        "the mean.",
    )
    score_clip: float | None = _key(
        None,
        "Clip the score of a response to [-c, c] after weighting. Off in InstructGPT and TRL; "
        "OpenRLHF 10, after normalisation.",
    )
    missing_eos_penalty: float | None = _key(
        1.0,
        "Subtracted from the score of a response that does not end by itself within "
        "max_completion_length (TRL's PPO: 1.0 in its examples; arXiv 2403.17031, detail 6).",
    )
    whiten_rewards: bool = _key(
        False,
        "Divide the per-token rewards by their deviation without moving their mean "
        "(arXiv 2403.17031, detail 18; off there).",
    )
    share_base: bool = _key(
        True,
        "Put a LoRA reward model on the policy's base if both were trained on the same one, "
        "instead of loading that base a second time.",
    )
    reward_timeout: float = _key(30.0, "Seconds that an HTTP scorer may take to answer.")
    reward_retries: int = _key(
        3, "Times that an HTTP scorer is asked again after an error, each after a longer wait."
    )

    # KL to the reference
    beta: float = _key(
        0.05,
        "beta, the KL coefficient in the reward (arXiv 2203.02155 eq. 2). TRL 0.05; OpenRLHF "
        "0.01, verl 0.001; 0 loads no reference.",
    )
    kl_estimator: Literal["k1", "k2", "k3"] = _key(
        "k1",
        "The estimate of KL_t in the reward: k1 = log pi - log pi_ref (InstructGPT), "
        "k2 = its square / 2, k3 = never negative (Schulman's note).",
    )
    kl_control: Literal["fixed", "adaptive"] = _key(
        "fixed", "Keep beta, or let a controller hold the KL at target_kl (arXiv 1909.08593)."
    )
    target_kl: float = _key(
        6.0, "KL_target of the adaptive controller, nats per response (arXiv 1909.08593: 6)."
    )
    kl_horizon: int = _key(
        10_000, "K_beta as a horizon in responses (arXiv 1909.08593's code: 10000)."
    )

    # Advantages
    gamma: float = _key(1.0, "gamma, the discount per token. 1 in all RLHF work.")
    lam: float = _key(0.95, "lambda of GAE (arXiv 1506.02438). 0.95 in InstructGPT and TRL.")
    whiten_advantages: bool = _key(
        True,
        "Move advantages to mean 0 and variance 1 over all real tokens of the rollout in all "
        "processes (arXiv 2403.17031, detail 19).",
    )

    # Losses
    cliprange: float = _key(
        0.2,
        "epsilon of the clipped surrogate (arXiv 1707.06347 eq. 7: 0.2). `epsilon_high` sets "
        "another upper bound.",
    )
    cliprange_value: float | None = _key(
        0.2, "How far a value may move from the old one before it is clipped (0.2); none: no clip."
    )
    vf_coef: float = _key(
        0.1, "c_1, weight of the value loss (arXiv 1707.06347 eq. 9). 0.1 in arXiv 2403.17031."
    )
    entropy_coef: float = _key(
        0.0, "c_2, weight of the entropy bonus (arXiv 1707.06347 eq. 9). 0 in RLHF work."
    )
    target_approx_kl: float | None = _key(
        None,
        "Stop the updates on a rollout when the KL of the old policy to the new one (k3, nats per "
        "token) is over this; that mini-batch is not applied. Spinning Up: 0.015. Default: off.",
    )

    # Critic
    critic: Literal["head", "model", "lora"] = _key(
        "head",
        "V: a value head on the policy's trunk, a model of its own, or a LoRA adapter with a head "
        "on the policy's frozen base.",
    )
    critic_init: Literal["auto", "reward_model", "policy"] = _key(
        "auto",
        "What `critic: model` starts from. auto: the first reward model with the policy's "
        "vocabulary (InstructGPT, OpenRLHF), else the policy with a zero head.",
    )

    center_values: bool = _key(
        True,
        "Before the advantages of a rollout, move all values by one number, so that their mean is "
        "the mean return: the level of returns is tracked apart from the weights, as in PopArt "
        "(arXiv 1602.07714). A bias can move by one learning rate per step, so while scores rise "
        "the values lag behind, and more so at later tokens. Measured in benchmarks/ppo.",
    )

    # Watching
    sample_steps: int = _key(
        10, "Rollouts between two records of completions in samples.jsonl. 0: none."
    )
    alarm_patience: int = _key(
        5,
        "Rollouts in a row that must look wrong (KL over twice target_kl, entropy collapse, a "
        "useless critic, runaway length, over-optimisation) before one alarm is logged. 0: never.",
    )
    num_samples: int = _key(4, "Completions in each record of samples.jsonl.")

    def __post_init__(self) -> None:
        """Set the keys of RLOO that PPO renames, check every value and compute the batch sizes."""
        self._use_our_words()
        self.bf16 = uses_bf16(vars(self))
        self._check_values()
        self._check_together()
        try:
            super().__post_init__()
        except ValueError as error:
            # RLOO's baseline, the mean reward of the other responses, needs two per prompt. That is
            # its last check. A critic is the baseline here.
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise ConfigError(str(error), "set these keys to fit one another") from error
        self._check_batches()
        if self.critic_learning_rate is None:
            self.critic_learning_rate = max(1e-5, self.learning_rate)

    @property
    def num_mini_batches(self) -> int:
        """Optimizer steps in one pass over a rollout."""
        return int(self.steps_per_generation) // int(self.gradient_accumulation_steps)

    def _use_our_words(self) -> None:
        before = vars(self).copy()
        self.num_iterations, self.epsilon = self.num_ppo_epochs, self.cliprange
        # PPO whitens advantages and clips scores itself, so RLOO must not.
        self.normalize_advantages, self.reward_clip_range = False, None
        for theirs, (ours, default) in _OUR_WORDS.items():
            if before[theirs] not in (default, vars(self)[theirs]):
                raise ConfigError(f"{theirs}: PPO calls this key {ours}", f"set {ours} instead")

    def _check_values(self) -> None:
        values = vars(self)
        for key, allowed in _CHOICES.items():
            if values[key] not in allowed:
                raise ConfigError(
                    f"{key}: {values[key]!r} is unknown", f"one of: {', '.join(allowed)}"
                )
        for keys, is_right, rule in _RULES:
            for key in keys:
                value = values[key]
                if value is not None and not is_right(value):
                    raise ConfigError(f"{key}: {value} must be {rule}")

        known = vars(GenerationConfig())
        unknown = [key for key in self.generation_kwargs or {} if key not in known]
        if unknown and not self.use_vllm:  # which rejects them itself
            raise ConfigError(
                f"generation_kwargs: transformers has no {', '.join(unknown)}",
                "leave it out, or see GenerationConfig of transformers for the names",
            )

    def _check_together(self) -> None:
        if self.log_completions:
            raise ConfigError(
                "log_completions: PPO logs completions itself, to samples.jsonl and the trackers",
                "leave it out; sample_steps and num_samples set how often and how many",
            )
        if self.critic_init != "auto" and self.critic != "model":
            raise ConfigError(
                f"critic_init: {self.critic_init} is for a critic of its own, and critic is "
                f"{self.critic}",
                "set critic: model, or leave critic_init out",
            )
        if self.deepspeed and self.target_approx_kl is not None:
            raise ConfigError(
                "target_approx_kl: DeepSpeed makes its step within backward, before the KL of a "
                "mini-batch is known",
                "leave it out under DeepSpeed; fewer num_ppo_epochs have the same effect",
            )
        if self.fp16 and self.target_approx_kl is not None:
            raise ConfigError(
                "target_approx_kl: fp16's loss scaler cannot leave out a step", "use bf16"
            )
        if self.kl_control == "adaptive" and self.beta == 0:
            raise ConfigError(
                "kl_control: adaptive multiplies beta, which is 0", "start from beta 0.05"
            )

    def _check_batches(self) -> None:
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise ConfigError(
                f"steps_per_generation: {self.steps_per_generation} is not a multiple of "
                f"gradient_accumulation_steps ({self.gradient_accumulation_steps})",
                "a mini-batch would mix two rollouts; their quotient is the number of mini-batches",
            )
