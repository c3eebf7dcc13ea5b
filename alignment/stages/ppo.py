"""Proximal policy optimisation against a reward model (arXiv 2203.02155, 2403.17031)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.registry import (
    MOVING_REFERENCE_KEYS,
    NO_LANGUAGE_KEYS,
    NO_TASK,
    Ignored,
    Panel,
    Rule,
    Stage,
    Values,
    bounds,
    has_held_out_rows,
    help_keys,
    only_with,
)

if TYPE_CHECKING:
    from alignment.training.job import Job


def _weights_differ_in_number(values: Values) -> bool:
    weights = values["reward_weights"]
    return bool(weights) and len(weights) != len(values["reward_model"] or ())


def _only_with_vllm(*keys: str, mode: str = "") -> Ignored:
    named = "use_vllm" + (f" and vllm_mode: {mode}" if mode else "")
    return Ignored(
        keys,
        f"acts only with {named}",
        "set that, or leave it out",
        "use_vllm",
        lambda values: bool(values["use_vllm"]) and (not mode or values["vllm_mode"] == mode),
    )


_IGNORED = (
    NO_TASK,
    Ignored(("loss_on",), "PPO learns from the answers that it samples"),
    Ignored(("data_seed",), "prompts are shuffled with the seed", "set seed instead"),
    Ignored(("train_sampling_strategy",), "prompts are shuffled, or read in order",
            "set shuffle_dataset instead"),
    Ignored(("include_num_input_tokens_seen",), "num_tokens counts them always"),
    Ignored(("log_multimodal", "log_unique_prompts", "num_completions_to_print"),
            "PPO logs completions itself", "set sample_steps and num_samples instead"),
    Ignored(("num_samples",), "acts only with sample_steps", "set sample_steps, or leave it out",
            "sample_steps", lambda values: values["sample_steps"] > 0),
    Ignored(("kl_horizon",), "acts only with kl_control: adaptive",
            "set kl_control: adaptive, or leave it out", "kl_control",
            lambda values: values["kl_control"] == "adaptive"),
    Ignored(("kl_estimator",), "acts only with beta over 0", "give beta, or leave it out",
            "beta", lambda values: values["beta"] > 0),
    MOVING_REFERENCE_KEYS,
    only_with("use_transformers_continuous_batching", "transformers_continuous_batching_config"),
    Ignored(("ds3_gather_for_generation",), "acts only with deepspeed",
            "give deepspeed, or leave it out", "deepspeed",
            lambda values: bool(values["deepspeed"])),
    Ignored(("num_generations_eval",), "acts only on held-out prompts",
            "give eval_data or eval_fraction, or leave it out",
            unless=has_held_out_rows),
    Ignored(("cache_implementation",), "acts only without use_vllm",
            unless=lambda values: not values["use_vllm"]),
    _only_with_vllm("vllm_mode", "vllm_model_impl", "vllm_structured_outputs_regex"),
    _only_with_vllm("vllm_server_base_url", "vllm_server_host", "vllm_server_port",
                    "vllm_server_timeout", "vllm_group_port", mode="server"),
    _only_with_vllm("vllm_gpu_memory_utilization", "vllm_max_model_length",
                    "vllm_tensor_parallel_size", "vllm_enable_sleep_mode", mode="colocate"),
)  # fmt: skip

STAGE = Stage(
    name="ppo",
    summary="Optimise against a reward model, with a critic (PPO)",
    kind="prompt",
    config="alignment.ppo.config:PPOConfig",
    roles=("model", "reward_model"),
    keys=help_keys(
        "reward_model",
        "beta",
        "num_ppo_epochs",
        "max_completion_length",
        "temperature",
        "as_chat",
    ),
    help={
        "reward_model": "run of rm, folder, hub name, module:function, file.py:function or URL",
        "num_ppo_epochs": "passes over each rollout",
        "max_completion_length": "maximum number of tokens in an answer",
        "temperature": "sampling temperature of the answers",
    },
    rules=(
        *bounds(
            (
                "max_completion_length",
                "steps_per_generation",
                "num_generations",
                "num_generations_eval",
                "generation_batch_size",
                "num_ppo_epochs",
            ),
            lambda x: x >= 1,
            "1 or more",
        ),
        *bounds(("temperature", "top_p", "epsilon_high"), lambda x: x > 0, "over 0"),
        *bounds(
            ("critic_learning_rate", "entropy_coef", "missing_eos_penalty"),
            lambda x: x >= 0,
            "0 or more",
        ),
        Rule(
            "sync_ref_model",
            lambda values: values["sync_ref_model"] and values["beta"] == 0,
            "moves a reference that beta 0 leaves out",
            "leave it out, or give beta",
        ),
        *bounds(("gamma", "lam"), lambda x: 0 <= x <= 1, "within 0 and 1"),
        Rule(
            "reward_weights",
            _weights_differ_in_number,
            "{} is not one number for each reward_model",
            "give as many weights as rewards",
        ),
        Rule(
            "max_loss_spike",
            lambda values: values["max_loss_spike"] is not None,
            "PPO's loss is around 0 and has no median to compare with",
            "leave it out: alarm_patience watches PPO",
        ),
    ),
    ignored=(*NO_LANGUAGE_KEYS, *_IGNORED),
    losses=(),
    answer_losses=(),
    splits_prompt=False,
    rows_per_example=1,
    joins_rows=False,
    reads_in_order=False,
    long_rows="refuse",
    length_key="max_completion_length",
    samples=True,
    reference="with_beta",
    critic=True,
    classifier=False,
    unmatched_passes=0,
    # a checkpoint within a rollout counts micro-batches of the size that it was saved with
    resumes_with_other_batch=False,
    best_metric="objective/rlhf_reward",
    metrics={
        "objective/rlhf_reward": True,
        "objective/score": True,
        "objective/kl": None,
        "objective/kl_k3": None,
        "objective/non_score_reward": None,
        "objective/score_std": None,
        "objective/beta": None,
        "rewards/": True,
        "critic/": None,
        "policy/": None,
        "response/": None,
        "completions/": None,
        "loss": False,
    },
    panels=(
        Panel("Score", (("objective/score", "score"),), "Mean score by the reward model; rises"),
        Panel(
            "KL to the reference", (("objective/kl", "KL"),), "In nats; rises, then levels off", 0.0
        ),
        Panel("Entropy", (("policy/entropy", "entropy"),), "A fall to zero means collapse"),
        Panel(
            "Explained variance",
            (("critic/explained_variance", "critic"),),
            "Of the returns by the critic; 1 is perfect",
            0.0,
        ),
        Panel(
            "Clip fraction",
            (("policy/clip_fraction", "policy"),),
            "Above 0.3, the steps are too large",
        ),
        Panel("Approximate KL", (("policy/approx_kl", "policy"),), "KL of one update"),
        Panel("Response length", (("response/length", "tokens"),), "Tokens"),
        Panel("Ended by EOS", (("response/eos_rate", "share"),), "Share of responses"),
    ),
)


def run(job: Job) -> None:
    """Train on prompts; the reference is the model that training starts from."""
    from alignment.ppo.rewards import load_rewards, shown_rewards
    from alignment.ppo.trainer import PPOTrainer
    from alignment.training.arguments import trainer_arguments

    arguments = trainer_arguments(job)
    args = arguments["args"]
    rewards, reward_tokenizers = load_rewards(
        args.reward_model,
        policy_tokenizer=arguments["processing_class"],
        trust_remote_code=args.trust_remote_code,
        accuracy_gate=args.reward_accuracy_gate,
        timeout=args.reward_timeout,
        retries=args.reward_retries,
    )
    # training_args.bin would hold what a URL has of passwords in every checkpoint
    args.reward_model = shown_rewards(args.reward_model)
    trainer = PPOTrainer(
        **arguments,
        reward_funcs=rewards,
        reward_processing_classes=reward_tokenizers,
        tracker=job.trackers,
    )
    job.train(trainer)
