"""Every key of every stage acts, or is refused: an option that changes nothing is a silent error.

A key of a new version of TRL or transformers fails here until it is sorted in. "Acts" was found by
reading who reads it, and by trying it.
"""

import pytest

from alignment.errors import ConfigError
from alignment.registry import STAGES, Ignored
from alignment.settings.ignored import IGNORED
from alignment.settings.resolve import resolve
from alignment.settings.schema import schema_of

#: Read by our own code.
OURS = """
as_chat chat_template columns data_encoding data_format early_stopping_patience eval_data
eval_fraction loss_on max_loss_spike max_rows on_bad_row overwrite preflight resume resume_anyway
run_group train_data auto_find_batch_size report_to hub_token
"""
#: Read by Trainer, by accelerate, or when the model is loaded.
TRAINER = """
accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1 adam_beta2
adam_epsilon attn_implementation bf16 dataloader_drop_last dataloader_in_order
dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm dtype
eval_on_start eval_strategy fp16 fsdp full_determinism gradient_accumulation_steps
gradient_checkpointing gradient_checkpointing_kwargs ignore_data_skip learning_rate
load_best_model_at_end load_in_4bit load_in_8bit log_level log_level_replica log_on_each_node
logging_first_step logging_nan_inf_filter logging_strategy lr_scheduler_kwargs lr_scheduler_type
max_grad_norm max_steps model_init_kwargs model_name_or_path neftune_noise_alpha num_train_epochs
optim output_dir pad_to_multiple_of per_device_eval_batch_size per_device_train_batch_size
push_to_hub run_name save_on_each_node save_only_model save_strategy save_total_limit seed
skip_memory_metrics tf32 torch_compile torch_compile_backend torch_compile_mode
torch_empty_cache_steps trust_remote_code use_cache use_cpu use_liger_kernel use_peft weight_decay
"""
#: Refused by a rule or by PPOConfig, whatever the value; or given by a launcher, not by a user.
REFUSED = "resume_from_checkpoint local_rank"
RENAMED = """
epsilon log_completions normalize_advantages num_iterations reward_clip_range use_transformers_paged
"""
LANGUAGE = """
activation_offloading assistant_only_loss average_tokens_across_devices chat_template_path
completion_only_loss data_seed eos_token eval_packing include_num_input_tokens_seen
label_smoothing_factor loss_type max_length packing pad_token padding_free router_aux_loss_coef
shuffle_dataset train_sampling_strategy truncation_mode
"""
REFERENCE = """
activation_offloading beta disable_dropout include_num_input_tokens_seen loss_type max_length
precompute_ref_log_probs router_aux_loss_coef sync_ref_model
"""
OF_STAGES = {
    "pt": LANGUAGE,
    "sft": LANGUAGE,
    "rm": """
        activation_offloading center_rewards_coefficient chat_template_path data_seed
        disable_dropout eos_token include_num_input_tokens_seen lora_task_type max_length pad_token
        """,
    "dpo": REFERENCE + """
        data_seed f_divergence_type ld_alpha loss_weights pad_token padding_free truncation_mode
        use_weighting
        """,
    "kto": REFERENCE + "desirable_weight undesirable_weight",
    "ppo": """
        alarm_patience beta center_values chat_template_kwargs cliprange cliprange_value critic
        critic_init critic_learning_rate critic_warmup_steps disable_dropout entropy_coef
        epsilon_high gamma generation_batch_size generation_kwargs kl_control lam
        mask_truncated_completions max_completion_length min_p missing_eos_penalty normalize_reward
        num_generations num_ppo_epochs repetition_penalty reward_accuracy_gate reward_model
        reward_retries reward_timeout reward_weights router_aux_loss_coef sample_steps score_clip
        share_base shuffle_dataset steps_per_generation sync_ref_model target_approx_kl target_kl
        temperature top_k top_p use_transformers_continuous_batching use_vllm vf_coef
        whiten_advantages whiten_rewards
        """ + RENAMED,
}  # fmt: skip


def ignored_in(stage: str) -> set[str]:
    return {key for found in (*IGNORED, *STAGES[stage].ignored) for key in found.keys}


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_acts_or_is_refused(stage: str) -> None:
    acts = set(f"{OURS} {TRAINER} {REFUSED} {OF_STAGES[stage]}".split())
    keys = set(schema_of(stage))
    assert keys - acts - ignored_in(stage) == set(), "sort these keys in"
    assert acts - keys == set(), "no such keys"


def test_no_key_is_refused_that_no_stage_has() -> None:
    every = set().union(*(schema_of(stage) for stage in STAGES))
    assert set().union(*(ignored_in(stage) for stage in STAGES)) <= every


ALONE = [
    ("sft", "--dataset_num_proc 4", "dataset_num_proc: acts only with packing"),
    ("dpo", "--dataset_num_proc 4", "dataset_num_proc: rows are tokenised before"),
    ("sft", '--dataset_kwargs {"skip_prepare_dataset":true}', "dataset_kwargs: rows are prepared"),
    ("sft", "--optim_target_modules all-linear", "optim_target_modules: acts only with an optim"),
    ("sft", "--optim_args betas=0.9:0.95", "optim_args: this optim takes none"),
    ("sft", "--optim sgd --adam_beta1 0.8", "adam_beta1: this optim has none"),
    ("sft", "--lr_scheduler_type constant --warmup_steps 5", "warmup_steps: this lr_scheduler_"),
    ("sft", "--lora_r 64", "lora_r: acts only with use_peft"),
    (
        "sft",
        "--eval_steps 5 --eval_fraction 0.1",
        "eval_steps: acts only with eval_strategy: steps",
    ),
    ("sft", "--bf16_full_eval", "bf16_full_eval: would round the weights before they are saved"),
    ("sft", "--hub_model_id me/mine", "hub_model_id: acts only with push_to_hub"),
    ("sft", "--lora_task_type SEQ_CLS --use_peft", "lora_task_type: the stage knows its task"),
    ("rm", "--label_smoothing_factor 0.1", "label_smoothing_factor: is of stages that learn next"),
    ("rm", "--train_sampling_strategy group_by_length", "train_sampling_strategy: group_by_length"),
    ("rm", "--loss_on all", "loss_on: a score is that of a whole answer"),
    ("dpo", "--label_smoothing 0.1", "label_smoothing: acts only with the losses robust, exo_pair"),
    ("dpo", "--ref_model_sync_steps 5", "ref_model_sync_steps: acts only with sync_ref_model"),
    ("kto", "--data_seed 3", "data_seed: the rows are shuffled once, with the seed"),
    ("ppo", "--data_seed 3", "data_seed: prompts are shuffled with the seed"),
    ("ppo", "--kl_horizon 100", "kl_horizon: acts only with kl_control: adaptive"),
    ("ppo", "--vllm_mode server", "vllm_mode: acts only with use_vllm"),
]


@pytest.mark.parametrize(("stage", "words", "message"), ALONE, ids=lambda x: str(x)[:40])
def test_a_key_that_changes_nothing_is_refused(stage: str, words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(stage, words.split())
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("sft", "--use_peft --lora_r 64"),
        ("sft", "--use_peft false --lora_r 64"),  # turned off by hand, the recipe stays
        ("sft", "--lora_r 16"),  # the default
        ("sft", "--packing --dataset_num_proc 4"),
        ("sft", "--optim sgd --optim_args momentum=0.9"),
        ("dpo", "--loss_type robust --label_smoothing 0.1"),
        ("kto", "--loss_type apo_zero_unpaired --data_seed 3"),
        ("ppo", "--kl_control adaptive --kl_horizon 100"),
    ],
)
def test_a_key_that_acts_is_taken(stage: str, words: str) -> None:
    resolve(stage, words.split())


def test_optimizers_read_what_they_are_given() -> None:
    """As transformers has it: who reads ``optim_args``, and who the betas of Adam."""
    import inspect

    from transformers.trainer_optimizer import _OPTIMIZER_HANDLERS, _get_bitsandbytes_optimizer

    for name, handler in _OPTIMIZER_HANDLERS.items():
        if handler is _get_bitsandbytes_optimizer:
            takes = "rmsprop" in name.value or "ademamix" in name.value
            has_betas = "rmsprop" not in name.value
        else:
            source = inspect.getsource(handler)
            takes, has_betas = "ctx.optim_args" in source, "adam_kwargs" in source
            has_betas = has_betas and name.value != "schedule_free_sgd"
        values = {"optim": name.value}
        assert acts("optim_args", values) is takes, name
        assert acts("adam_beta1", values) is has_betas, name


def acts(key: str, values: dict[str, str]) -> bool:
    (found,) = (found for found in IGNORED if key in found.keys)
    assert isinstance(found, Ignored)
    return found.unless(values)
