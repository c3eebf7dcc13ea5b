"""What other trainers call our keys, so that a recipe from there is corrected in one go.

From LLaMA-Factory, axolotl, ms-swift, unsloth, OpenRLHF, and older TRL and transformers.
"""

import re
from collections.abc import Collection

from alignment.errors import ConfigError

#: Our key for a name of another tool; a value says how to write it.
OTHER_NAMES = {
    # model
    "model": "model_name_or_path",
    "model_name": "model_name_or_path",
    "model_path": "model_name_or_path",
    "model_id": "model_name_or_path",
    "base_model": "model_name_or_path",
    "pretrain": "model_name_or_path",
    "pretrained_model_name_or_path": "model_name_or_path",
    "sft_model_path": "model_name_or_path",
    "adapter_name_or_path": "model_name_or_path",
    "adapters": "model_name_or_path",
    "torch_dtype": "dtype",
    "compute_dtype": "dtype",
    "precision": "dtype",
    "flash_attn": "attn_implementation",
    "flash_attention": "attn_implementation",
    "use_flash_attention_2": "attn_implementation",
    "attn_impl": "attn_implementation",
    "quantization_bit": "load_in_4bit",
    "quant_bits": "load_in_4bit",
    "reward_model_path": "reward_model",
    "reward_pretrain": "reward_model",
    # LoRA
    "finetuning_type": "use_peft: true",
    "train_type": "use_peft: true",
    "tuner_type": "use_peft: true",
    "adapter": "use_peft: true",
    "use_lora": "use_peft: true",
    "lora": "use_peft: true",
    "lora_rank": "lora_r",
    "lora_target": "lora_target_modules",
    "lora_target_linear": "lora_target_modules: all-linear",
    "target_modules": "lora_target_modules",
    "additional_target": "lora_modules_to_save",
    "modules_to_save": "lora_modules_to_save",
    # data
    "data": "train_data",
    "dataset": "train_data",
    "datasets": "train_data",
    "dataset_name": "train_data",
    "dataset_path": "train_data",
    "dataset_dir": "train_data",
    "data_path": "train_data",
    "train_file": "train_data",
    "train_dataset": "train_data",
    "prompt_data": "train_data",
    "eval_dataset": "eval_data",
    "val_dataset": "eval_data",
    "test_datasets": "eval_data",
    "validation_file": "eval_data",
    "val_size": "eval_fraction",
    "val_set_size": "eval_fraction",
    "split_dataset_ratio": "eval_fraction",
    "max_samples": "max_rows",
    "template": "chat_template",
    "prompt_template": "chat_template",
    "chat_template_name": "chat_template",
    "cutoff_len": "max_length",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "max_len": "max_length",
    "sequence_len": "max_length",
    "block_size": "max_length",
    "neat_packing": "packing",
    "sample_packing": "packing",
    "train_on_prompt": "loss_on: all",
    "train_on_inputs": "loss_on: all",
    "mask_history": "loss_on: last",
    "loss_scale": "loss_on",
    # training
    "lr": "learning_rate",
    "actor_learning_rate": "learning_rate",
    "critic_lr": "critic_learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "max_epochs": "num_train_epochs",
    "n_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "micro_train_batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "accumulation_steps": "gradient_accumulation_steps",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "warmup_ratio": "warmup_steps: 0.1 (under 1, a share of the steps)",
    "max_norm": "max_grad_norm",
    "evaluation_strategy": "eval_strategy",
    "evals_per_epoch": "eval_steps",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "no_cuda": "use_cpu",
    "logging_dir": "output_dir",
    "save_path": "output_dir",
    "overwrite_output_dir": "overwrite",
    "resume_training": "resume",
    "wandb_project": "project",
    "wandb_entity": "project",
    "wandb_name": "run_name",
    "wandb_run_name": "run_name",
    "push_to_hub_token": "hub_token",
    # preferences and PPO
    "pref_beta": "beta",
    "dpo_beta": "beta",
    "kl_coef": "beta",
    "init_kl_coef": "beta",
    "pref_loss": "loss_type",
    "dpo_loss": "loss_type",
    "rlhf_type": "loss_type",
    "pref_ftx": "loss_type: [sigmoid, sft] with loss_weights: [1.0, 0.1]",
    "rpo_alpha": "loss_type: [sigmoid, sft] with loss_weights: [1.0, 0.1]",
    "ppo_epochs": "num_ppo_epochs",
    "max_length": "max_completion_length",
    "max_new_tokens": "max_completion_length",
    "response_length": "max_completion_length",
    "generate_max_len": "max_completion_length",
    "gae_lambda": "lam",
    "lambd": "lam",
    "value_clip": "cliprange_value",
    "eps_clip": "cliprange",
    "ppo_score_norm": "normalize_reward",
    "n_samples_per_prompt": "num_generations",
}
#: Names of what this program does otherwise, or not.
NO_KEY = {
    "max_prompt_length": "no key: max_length cuts rows, and ppo never cuts a prompt",
    "prompt_max_len": "no key: max_length cuts rows, and ppo never cuts a prompt",
    "stage": "the command names the stage: align sft, align dpo, ...",
    "plot_loss": "`align report` draws the curves",
    "save_safetensors": "weights are always saved as safetensors",
    "ref_model": "the reference is the model that training starts from",
    "ref_model_name_or_path": "the reference is the model that training starts from",
    "reference_free": "the reference is the model that training starts from",
    "num_mini_batches": "gradient_accumulation_steps decides how many batches make a step",
    "streaming": "rows are prepared once and read from disk",
    "cache_dir": "the hub's cache is in HF_HOME, prepared rows in ALIGN_CACHE",
    "preprocessing_num_workers": "one pass prepares the rows; `align cache` lists them",
}
#: Short flags, and what they mean here.
SHORT_FLAGS = {"-o": "--output_dir"}
_SHORT = re.compile(r"-[A-Za-z]\w*(=.*)?")


def is_flag(word: str) -> bool:
    """Whether a word of a command line is a flag; a negative number is not."""
    return word.startswith("--") or _SHORT.fullmatch(word) is not None


def long_flag(word: str) -> str:
    """A flag in its long form.

    Raises:
        ConfigError: It is a short flag that has none.
    """
    if word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    if name not in SHORT_FLAGS:
        raise ConfigError(
            f"{name}: no such short flag", f"there is -o for --output_dir; write {_guess(name)}"
        )
    return f"{SHORT_FLAGS[name]}{equals}{value}"


def _guess(name: str) -> str:
    word = name.lstrip("-")
    key = OTHER_NAMES.get(word, "") if len(word) > 1 else ""
    return f"--{key}" if key and ":" not in key else "others as --key VALUE"


def other_name(name: str, known: Collection[str]) -> str:
    """What to write for a name of another tool; empty if it is not known.

    Args:
        name: As it was written.
        known: The keys of the stage.
    """
    word = name.lower().replace("-", "_")
    if word in NO_KEY:
        return f"{name}: {NO_KEY[word]}"
    if word not in OTHER_NAMES:
        return ""
    key = OTHER_NAMES[word].partition(":")[0]
    missing = "" if key in known else ", which this stage does not have"
    return f"{name} -> {OTHER_NAMES[word]}{missing}"
