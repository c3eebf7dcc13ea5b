"""Values that TRL, PEFT, transformers and torch reject only after the model is loaded.

Each is reported before. `blame` is for the rest: it names the key in the error of a library.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from alignment.errors import ConfigError, place_of, raised_in
from alignment.registry import Rule, Values, bounds, has_held_out_rows

#: The keys of `lr_scheduler_kwargs` by `lr_scheduler_type`, as transformers has them.
SCHEDULER_KEYS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "constant": (),
    "constant_with_warmup": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"),
    "warmup_stable_decay": (
        "num_decay_steps",
        "num_stable_steps",
        "warmup_type",
        "decay_type",
        "min_lr_ratio",
        "num_cycles",
    ),
    "reduce_lr_on_plateau": (
        "mode",
        "factor",
        "patience",
        "threshold",
        "threshold_mode",
        "cooldown",
        "min_lr",
        "eps",
    ),
    "greedy": (
        "mode",
        "factor",
        "patience",
        "threshold",
        "threshold_mode",
        "cooldown",
        "warmup",
        "min_lr",
        "max_lr",
        "eps",
        "verbose",
        "smooth",
        "window_size",
        "reset_start",
    ),
}
#: Keys of schedulers that are words; all others are numbers.
_WORDS = ("warmup_type", "decay_type", "mode", "threshold_mode")
#: The keys of `optim_args` by how the names of the optimizers begin, and those that are numbers.
_LOW_RANK = ("rank", "update_proj_gap", "scale", "proj_type")
_ADEMAMIX = ("beta1", "beta2", "beta3", "alpha", "eps", "t_alpha", "t_beta3")
OPTIMIZER_KEYS: dict[str, tuple[str, ...]] = {
    "galore": _LOW_RANK,
    "apollo": (*_LOW_RANK, "proj", "scale_type"),
    "adamw_anyprecision": (
        "use_kahan_summation",
        "momentum_dtype",
        "variance_dtype",
        "compensation_buffer_dtype",
    ),
    "adamw_torch_4bit": ("block_size", "bf16_stochastic_round"),
    "adamw_torch_8bit": ("block_size", "bf16_stochastic_round"),
    "ademamix": _ADEMAMIX,
    "paged_ademamix": _ADEMAMIX,
    "grokadamw": (
        "alpha_init",
        "lamb",
        "gamma",
        "grokking_signal_decay_rate",
        "gradient_clipping",
    ),
    "sgd": ("momentum", "dampening", "weight_decay", "nesterov"),
    "adagrad": ("lr_decay", "weight_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "weight_decay", "centered"),
    "stable_adamw": ("max_lr", "kahan_sum", "decouple_lr"),
    "schedule_free": ("weight_lr_power", "r"),
}
_NOT_NUMBERS = (
    "proj",
    "proj_type",
    "scale_type",
    "use_kahan_summation",
    "momentum_dtype",
    "variance_dtype",
    "compensation_buffer_dtype",
    "bf16_stochastic_round",
    "nesterov",
    "centered",
    "kahan_sum",
    "decouple_lr",
)
#: Values that are names of a library's own, by key; None: not given.
CHOICES: dict[str, tuple[str, ...]] = {
    "attn_implementation": (
        "eager",
        "sdpa",
        "flash_attention_2",
        "flash_attention_3",
        "flash_attention_4",
        "flex_attention",
    ),
    "bnb_4bit_quant_storage": ("uint8", "int8", "float16", "bfloat16", "float32", "float64"),
    "cache_implementation": (
        "static",
        "offloaded_static",
        "sliding_window",
        "hybrid",
        "hybrid_chunked",
        "offloaded_hybrid",
        "offloaded_hybrid_chunked",
        "dynamic",
        "offloaded",
        "quantized",
    ),
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "torch_compile_backend": (
        "eager",
        "aot_eager",
        "inductor",
        "aot_ts_nvfuser",
        "nvprims_nvfuser",
        "cudagraphs",
        "ofi",
        "fx2trt",
        "onnxrt",
        "tensorrt",
        "aot_torchxla_trace_once",
        "torchxla_trace_once",
        "tvm",
        "hpu_backend",
        "neuron",
    ),
    "torch_compile_mode": (
        "default",
        "lite",
        "reduce-overhead",
        "max-autotune",
        "max-autotune-no-cudagraphs",
    ),
}
#: Packages of optimizers, by the beginning of their names.
OPTIMIZER_PACKAGES = {
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "optimi",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "adamw_anyprecision": "torchdistx",
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu": "torch_npu",
    "ademamix": "bitsandbytes",
    "lion": "bitsandbytes",
    "paged": "bitsandbytes",
    "adamw_8bit": "bitsandbytes",
    "adamw_bnb": "bitsandbytes",
    "rmsprop_bnb": "bitsandbytes",
}
_CHECKPOINTING = (
    "every_n_layers",
    "offload",
    "use_reentrant",
    "selective",
    "preserve_rng_state",
    "determinism_check",
    "debug",
    "early_stop",
)


def _kwargs(values: Values, key: str) -> Mapping[str, Any]:
    """A key whose value is a mapping, empty if it is not given."""
    return values.get(key) or {}


def checkpoints_activations(values: Values) -> bool:
    """Whether activations are computed again in the backward; both names of the key count."""
    given = values["activation_checkpointing"]
    return bool(values["gradient_checkpointing"] if given is None else given)


def _is_over_one_and_broken(values: Values, key: str) -> bool:
    return values[key] is not None and values[key] > 1 and values[key] != int(values[key])


def _needs_targets(values: Values) -> bool:
    return values["optim"].startswith(("galore", "apollo")) and not values["optim_target_modules"]


RULES = (
    *bounds(
        (
            "pad_to_multiple_of",
            "eval_accumulation_steps",
            "torch_empty_cache_steps",
            "dataloader_prefetch_factor",
            "ref_model_sync_steps",
            "precompute_ref_batch_size",
        ),
        lambda x: x >= 1,
        "1 or more",
    ),
    *bounds(("seed", "data_seed"), lambda x: 0 <= x < 2**32, "from 0 to 4294967295"),
    *bounds(("neftune_noise_alpha", "top_k"), lambda x: x >= 0, "0 or more"),
    *bounds(("repetition_penalty", "discopop_tau"), lambda x: x > 0, "over 0"),
    *bounds(
        ("label_smoothing_factor", "ref_model_mixup_alpha", "ld_alpha", "min_p", "top_p"),
        lambda x: 0 <= x <= 1,
        "within 0 and 1",
    ),
    *(
        Rule(key, lambda v, key=key: _is_over_one_and_broken(v, key),  # type: ignore[misc]
             "{} must be a whole number, or a share of the steps under 1", f"change {key}")
        for key in ("logging_steps", "save_steps", "eval_steps")
    ),
    Rule("load_best_model_at_end",
         lambda v: v["load_best_model_at_end"] and v["eval_strategy"] == "steps"
         and v["save_strategy"] == "steps" and v["eval_steps"] and v["eval_steps"] >= 1
         and v["save_steps"] >= 1 and v["save_steps"] % v["eval_steps"] != 0,
         "needs an evaluation at each save, but save_steps is no multiple of eval_steps",
         "make save_steps a multiple of eval_steps"),
    Rule("eval_on_start",
         lambda v: v["eval_on_start"] and not has_held_out_rows(v),
         "is set, but no rows are held out", "give --eval_data FILE or --eval_fraction 0.05"),
    Rule("lora_task_type", lambda v: v["lora_task_type"] not in ("CAUSAL_LM", "SEQ_CLS"),
         "'{}' is not a task of a stage", "leave it out: the stage knows its task"),
    Rule("lora_target_modules",
         lambda v: v["use_peft"] and "lm_head" in (v["lora_target_modules"] or ()),
         "an adapter on lm_head is not trained, since losses read its weight",
         "leave lm_head out, or put it into lora_modules_to_save"),
    Rule("padding_free",
         lambda v: "packing" in v and v["padding_free"] and not v["packing"]
         and v["max_length"] is not None,
         "does not cut rows at max_length without packing", "add packing, or max_length: null"),
    Rule("packing", lambda v: bool(v.get("packing")) and v["max_length"] is None,
         "needs blocks of a length, but max_length is null", "give max_length"),
    Rule("activation_checkpointing_kwargs",
         lambda v: not set(_kwargs(v, "activation_checkpointing_kwargs")) <= set(_CHECKPOINTING),
         "{} has a key that torch does not know", f"known: {', '.join(_CHECKPOINTING)}"),
    Rule("activation_checkpointing_kwargs",
         lambda v: bool(_kwargs(v, "activation_checkpointing_kwargs").get("selective"))
         and not checkpoints_activations(v),
         "selective needs activation_checkpointing", "set activation_checkpointing: true"),
    Rule("activation_checkpointing_kwargs",
         lambda v: bool(_kwargs(v, "activation_checkpointing_kwargs").get("selective"))
         and bool(_kwargs(v, "activation_checkpointing_kwargs").get("use_reentrant")),
         "selective cannot be on together with use_reentrant", "leave use_reentrant out"),
    Rule("optim_args",
         lambda v: any("=" not in part for part in (v["optim_args"] or "=").split(",")),
         "'{}' is not key=value, key=value", "for example momentum=0.9 of sgd, or leave it out"),
    Rule("optim_target_modules", _needs_targets,
         "is needed by this optim", "give all-linear, or names of modules"),
    Rule("lr_scheduler_type",
         lambda v: v["lr_scheduler_type"] in ("reduce_lr_on_plateau", "greedy")
         and v["eval_strategy"] == "no",
         "{} needs evaluations, but eval_strategy is no", "set eval_strategy: steps"),
    Rule("lr_scheduler_type",
         lambda v: v["lr_scheduler_type"] in ("cosine_with_min_lr", "cosine_warmup_with_min_lr")
         and not {"min_lr", "min_lr_rate"} & set(_kwargs(v, "lr_scheduler_kwargs")),
         "{} needs the rate that it ends with", "lr_scheduler_kwargs: {min_lr_rate: 0.1}"),
    Rule("lr_scheduler_type",
         lambda v: v["lr_scheduler_type"] == "warmup_stable_decay"
         and "num_decay_steps" not in _kwargs(v, "lr_scheduler_kwargs"),
         "{} needs the number of its last steps", "lr_scheduler_kwargs: {num_decay_steps: 100}"),
    Rule("lr_scheduler_kwargs",
         lambda v: v["lr_scheduler_type"] == "polynomial"
         and _kwargs(v, "lr_scheduler_kwargs").get("lr_end", 0) >= v["learning_rate"],
         "lr_end must be under the learning_rate", "lower lr_end"),
    Rule("dataloader_persistent_workers",
         lambda v: v["dataloader_persistent_workers"] and v["dataloader_num_workers"] == 0,
         "needs dataloader_num_workers over 0", "leave one of the two out"),
    Rule("dataloader_multiprocessing_context",
         lambda v: v["dataloader_multiprocessing_context"] is not None
         and v["dataloader_num_workers"] == 0,
         "needs dataloader_num_workers over 0", "leave one of the two out"),
    Rule("dataloader_prefetch_factor",
         lambda v: v["dataloader_prefetch_factor"] is not None
         and v["dataloader_num_workers"] == 0,
         "needs dataloader_num_workers over 0", "leave one of the two out"),
)  # fmt: skip


def late_faults(values: Values) -> Iterator[tuple[str, str, str]]:
    """Names that a library does not know: key, why and remedy."""
    for key, known in CHOICES.items():
        value = values.get(key)
        # a name with a slash is a kernel on the hub
        if isinstance(value, str) and value not in known and "/" not in value:
            yield key, f"'{value}' is none of {', '.join(known)}", "choose one of these"
    scheduler = values["lr_scheduler_type"]
    known = SCHEDULER_KEYS.get(scheduler, tuple(_kwargs(values, "lr_scheduler_kwargs")))
    for name, value in _kwargs(values, "lr_scheduler_kwargs").items():
        if name not in known:
            hint = f"it knows {', '.join(known)}" if known else "leave lr_scheduler_kwargs out"
            yield "lr_scheduler_kwargs", f"{scheduler} has no '{name}'", hint
        elif name not in _WORDS and not isinstance(value, int | float):
            yield "lr_scheduler_kwargs", f"{name}: '{value}' is no number", "give a number"
    yield from _faults_of_optimizer(values)


def _faults_of_optimizer(values: Values) -> Iterator[tuple[str, str, str]]:
    optim = values["optim"]
    known = next((keys for start, keys in OPTIMIZER_KEYS.items() if optim.startswith(start)), ())
    for part in (values["optim_args"] or "").replace(" ", "").split(","):
        name, _, value = part.partition("=")
        if not known or not name:  # `settings.ignored` reports an optimizer that takes none
            continue
        if name not in known:
            yield "optim_args", f"{optim} has no '{name}'", f"it knows {', '.join(known)}"
        elif name not in _NOT_NUMBERS and not _is_number(value):
            yield "optim_args", f"{name}: '{value}' is no number", "give a number"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def optimizer_package(optim: str) -> str | None:
    """The package that an optimizer needs beside torch; None: no other."""
    return next(
        (name for start, name in OPTIMIZER_PACKAGES.items() if optim.startswith(start)), None
    )


#: Whose errors may be about a setting, and what they call ours.
_LIBRARIES = ("trl", "peft", "transformers", "accelerate", "datasets", "bitsandbytes")
_THEIR_NAMES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "target_modules": "lora_target_modules",
    "Target modules": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    "task_type": "lora_task_type",
    "Using fsdp": "fsdp",
}
_RAISED = (ValueError, TypeError, KeyError, ImportError, NotImplementedError)
_LONGEST = 300  # characters of a library's message


def blame(
    error: BaseException, given: Mapping[str, Any], sources: Mapping[str, str]
) -> ConfigError | None:
    """The error of a library as a user error, if its message names a key that the user gave.

    Args:
        error: Raised by a library, while a stage ran.
        given: The keys that differ from their default, with their values.
        sources: Their places.

    Returns:
        None if the error is not about a setting: then it is a bug, and keeps its traceback.
    """
    if not isinstance(error, _RAISED) or raised_in(error) not in _LIBRARIES:
        return None
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    message = " ".join(text.split())
    for key, value in given.items():
        names = [key, *(theirs for theirs, ours in _THEIR_NAMES.items() if ours == key)]
        names += value if isinstance(value, Mapping) else []
        if any(_names(message, name) for name in names):
            return ConfigError(
                f"{place_of(sources.get(key, ''))}{key}: {message[:_LONGEST]}", f"change {key}"
            )
    return None


def _names(message: str, name: str) -> bool:
    """Whether a message names a key: quoted, as a flag, or a word that nothing else is called."""
    quoted = rf"[`'\"]{re.escape(name)}(=[^`]*)?[`'\"]|--{re.escape(name)}\b|\bargs\.{name}\b"
    plain = rf"\b{re.escape(name)}\b" if "_" in name or " " in name else r"(?!)"
    return re.search(f"{quoted}|{plain}", message) is not None
