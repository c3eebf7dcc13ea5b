"""The table of stages; imports nothing heavy, so that help and pipelines stay quick."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """What the command line and a pipeline need to know of a stage before it is imported.

    ``kind`` is the shape of the rows it reads, ``config`` the class (module:name) of its trainer's
    settings, ``roles`` what it takes from earlier stages, ``keys`` what ``--help`` shows.
    """

    name: str
    summary: str
    kind: str
    config: str
    roles: tuple[str, ...]
    keys: tuple[str, ...]


#: What a stage takes from an earlier one, and the key that the path is handed over in.
ROLES = {"model": "model_name_or_path", "reward_model": "reward_model"}

_COMMON = (
    "model_name_or_path",
    "train_data",
    "eval_data",
    "output_dir",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)
_LENGTH = ("max_length",)
_LORA = ("use_peft", "lora_r", "lora_alpha")
_RUN = ("logging_steps", "save_steps", "report_to", "seed", "resume", "overwrite")

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "pt",
            "Continue pre-training on plain text, packed",
            "text",
            "trl:SFTConfig",
            ("model",),
            (*_COMMON, *_LENGTH, "packing", *_LORA, *_RUN),
        ),
        Stage(
            "sft",
            "Fine-tune on answers (supervised)",
            "sft",
            "trl:SFTConfig",
            ("model",),
            (*_COMMON, *_LENGTH, "packing", "assistant_only_loss", "as_chat", *_LORA, *_RUN),
        ),
        Stage(
            "rm",
            "Train a reward model on chosen and rejected answers",
            "preference",
            "trl:RewardConfig",
            ("model",),
            (*_COMMON, *_LENGTH, "center_rewards_coefficient", "as_chat", *_LORA, *_RUN),
        ),
        Stage(
            "dpo",
            "Optimise on preferences directly, without a reward model",
            "preference",
            "trl:DPOConfig",
            ("model",),
            (*_COMMON, *_LENGTH, "beta", "loss_type", "as_chat", *_LORA, *_RUN),
        ),
        Stage(
            "ppo",
            "Optimise against a reward model, with a critic (PPO)",
            "prompt",
            "alignment.ppo.config:PPOConfig",
            ("model", "reward_model"),
            (
                *_COMMON,
                "reward_model",
                "beta",
                "num_ppo_epochs",
                "max_completion_length",
                "temperature",
                "as_chat",
                *_LORA,
                *_RUN,
            ),
        ),
    )
}
