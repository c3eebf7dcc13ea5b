"""Reject keys that a stage would not read: an option that changes nothing is a silent error.

`tests/contracts/test_ignored.py` holds that every key of every stage acts, or is refused.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignment.errors import ConfigError, place_of
from alignment.registry import STAGES, Ignored, Values, only_with
from alignment.settings.late_faults import OPTIMIZER_KEYS, checkpoints_activations
from alignment.settings.trackers import reporters

#: How names of optimizers begin that have no betas and no epsilon of Adam.
_NO_ADAM = (
    "adafactor",
    "adagrad",
    "adalomo",
    "galore",
    "grokadamw",
    "lomo",
    "rmsprop",
    "schedule_free_sgd",
    "sgd",
)
_NO_WARMUP = ("constant", "greedy", "reduce_lr_on_plateau")


def _reports(values: Values, tracker: str) -> bool:
    return not {tracker, "all"}.isdisjoint(reporters(values["report_to"]))


def _compares(values: Values) -> bool:
    """Whether something reads the metric of the best model; PPO's alarms always do."""
    return bool(
        values["load_best_model_at_end"]
        or values["early_stopping_patience"]
        or values["save_strategy"] == "best"
        or values["lr_scheduler_type"] in ("reduce_lr_on_plateau", "greedy")
        or "alarm_patience" in values
    )


#: Keys of TRL and transformers, for every stage that has them.
IGNORED = (
    Ignored(("do_train", "do_predict"), "align <stage> trains, whatever it says"),
    Ignored(("do_eval",), "held-out rows decide", "give eval_data or eval_fraction instead"),
    Ignored(
        (
            "batch_eval_metrics",
            "eval_accumulation_steps",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "include_for_metrics",
            "label_names",
            "prediction_loss_only",
        ),
        "an evaluation keeps no predictions that it could act on",
    ),
    Ignored(
        ("bf16_full_eval", "fp16_full_eval"),
        "would round the weights before they are saved",
        "set bf16: true instead, which evaluates in bfloat16 too",
    ),
    Ignored(
        ("enable_jit_checkpoint", "restore_callback_states_from_checkpoint"),
        "align saves at a signal and resumes whole by itself",
    ),
    Ignored(("remove_unused_columns",), "rows hold only columns that are used"),
    Ignored(
        ("model_revision",),
        "a folder has no revisions",
        "leave it out, or name the model on the hub",
        "",
        lambda values: not Path(values["model_name_or_path"] or "").is_dir(),
    ),
    only_with(
        "use_peft",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
        "lora_target_parameters",
        "lora_modules_to_save",
        "use_rslora",
        "use_dora",
    ),
    only_with(
        "load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"
    ),
    only_with(
        "push_to_hub",
        "hub_model_id",
        "hub_strategy",
        "hub_private_repo",
        "hub_always_push",
        "hub_revision",
    ),
    only_with("fsdp", "fsdp_config"),
    only_with("use_liger_kernel", "liger_kernel_config"),
    Ignored(
        ("activation_checkpointing_kwargs",),
        "acts only with activation_checkpointing",
        "set activation_checkpointing: true, or leave it out",
        "activation_checkpointing",
        checkpoints_activations,
    ),
    Ignored(
        ("dataloader_in_order",),
        "acts only with dataloader_num_workers over 0",
        "set dataloader_num_workers, or leave it out",
        "dataloader_num_workers",
        lambda values: values["dataloader_num_workers"] > 0,
    ),
    Ignored(
        ("eval_steps",),
        "acts only with eval_strategy: steps",
        "set eval_strategy: steps, or leave it out",
        "eval_strategy",
        lambda values: values["eval_strategy"] == "steps",
    ),
    Ignored(
        ("eval_delay",),
        "acts only with an eval_strategy",
        "set eval_strategy: steps, or leave it out",
        "eval_strategy",
        lambda values: values["eval_strategy"] != "no",
    ),
    Ignored(
        ("save_steps",),
        "acts only with save_strategy: steps",
        "leave it out",
        "save_strategy",
        lambda values: values["save_strategy"] == "steps",
    ),
    Ignored(
        ("logging_steps",),
        "acts only with logging_strategy: steps",
        "leave it out",
        "logging_strategy",
        lambda values: values["logging_strategy"] == "steps",
    ),
    Ignored(
        ("metric_for_best_model", "greater_is_better"),
        "acts only with load_best_model_at_end, early_stopping_patience or save_strategy: best",
        "give one of these, or leave it out",
        "",
        _compares,
    ),
    Ignored(
        ("optim_target_modules",),
        "acts only with an optim of GaLore or APOLLO",
        "leave it out, or choose one of these for optim",
        "",
        lambda values: values["optim"].startswith(("galore", "apollo")),
    ),
    Ignored(
        ("optim_args",),
        "this optim takes none",
        "set adam_beta1, adam_beta2, adam_epsilon or weight_decay instead, or choose another optim",
        "",
        lambda values: values["optim"].startswith(tuple(OPTIMIZER_KEYS)),
    ),
    Ignored(
        ("adam_beta1", "adam_beta2"),
        "this optim has none",
        "leave it out, or choose another optim",
        "",
        lambda values: not values["optim"].startswith(_NO_ADAM),
    ),
    Ignored(
        ("adam_epsilon",),
        "this optim has none",
        "leave it out, or choose another optim",
        "",
        lambda values: not (values["optim"].startswith(_NO_ADAM) or "lion" in values["optim"]),
    ),
    Ignored(
        ("warmup_steps",),
        "this lr_scheduler_type has no warm-up",
        "set lr_scheduler_type: constant_with_warmup, or leave it out",
        "",
        lambda values: values["lr_scheduler_type"] not in _NO_WARMUP,
    ),
    Ignored(
        ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        "acts only with report_to: trackio",
        "leave it out, or set report_to: trackio",
        "report_to",
        lambda values: _reports(values, "trackio"),
    ),
)


def check_ignored(
    stage: str,
    values: Values,
    changed: Mapping[str, Any],
    source: Callable[[str], str],
) -> None:
    """Check that every key that differs from its default does something.

    Args:
        stage: The stage.
        values: All values.
        changed: The keys that were given and differ from their default.
        source: Gives the place of a key, ``default`` if it was not given.

    Raises:
        ConfigError: The first key that would be ignored, with its place and a remedy.
    """
    for found in (*IGNORED, *STAGES[stage].ignored):
        keys = [key for key in found.keys if key in changed]
        if not keys or (found.switch and source(found.switch) != "default"):
            continue
        if not found.unless(values):
            why = found.why.format(values[keys[0]])
            raise ConfigError(f"{place_of(source(keys[0]))}{keys[0]}: {why}", found.remedy)
