"""Reject values and combinations of keys that cannot work, before anything heavy is loaded.

`settings.resolve` checks types and unknown keys; each stage adds its own rules in its module.
"""

import json
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from itertools import chain
from pathlib import Path

from alignment.errors import ConfigError, place_of
from alignment.registry import STAGES, Rule, Values, bounds, has_held_out_rows
from alignment.settings.late_faults import RULES as LATE_RULES
from alignment.settings.late_faults import late_faults, optimizer_package
from alignment.settings.precision import (
    COARSE,
    computes_in_float32,
    loses_updates,
    splits_precision,
    uses_bf16,
)
from alignment.settings.reward_spec import RewardKind, find_source, parse_reward
from alignment.settings.trackers import TRACKERS, reporters

#: A key, the value that needs a package, the package, and our extra that installs it.
_PACKAGES = (
    ("use_vllm", True, "vllm", "vllm"),
    ("load_in_4bit", True, "bitsandbytes", "quant"),
    ("load_in_8bit", True, "bitsandbytes", "quant"),
    ("use_liger_kernel", True, "liger_kernel", ""),
    ("attn_implementation", "flash_attention_2", "flash_attn", ""),
    ("attn_implementation", "flash_attention_3", "flash_attn_interface", ""),
    ("attn_implementation", "flash_attention_4", "flash_attn", ""),
)


def _names_precision(values: Values) -> bool:
    given = values["model_init_kwargs"] or {}
    return any(key in given for key in ("dtype", "torch_dtype", "quantization_config"))


#: Rules for keys that several stages have.
_RULES = (
    *bounds(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "max_length",
            "max_rows",
            "save_total_limit",
            "early_stopping_patience",
            "lora_r",
            "lora_alpha",
        ),
        lambda x: x >= 1,
        "1 or more",
    ),
    *bounds(
        ("logging_steps", "save_steps", "eval_steps", "adam_epsilon"), lambda x: x > 0, "over 0"
    ),
    *bounds(
        (
            "learning_rate",
            "weight_decay",
            "max_grad_norm",
            "beta",
            "warmup_steps",
            "seed",
            "dataloader_num_workers",
        ),
        lambda x: x >= 0,
        "0 or more",
    ),
    *bounds(
        ("lora_dropout", "eval_fraction", "adam_beta1", "adam_beta2"),
        lambda x: 0 <= x < 1,
        "at least 0 and under 1",
    ),
    *bounds(("max_loss_spike",), lambda x: x > 1, "over 1"),
    Rule("max_steps", lambda v: v["max_steps"] == 0 or v["max_steps"] < -1,
         "{} trains nothing", "give 1 or more, or leave it out for num_train_epochs"),
    Rule("num_train_epochs", lambda v: v["num_train_epochs"] <= 0 and v["max_steps"] < 1,
         "{} trains nothing", "give a number over 0, or max_steps"),
    Rule("resume", lambda v: v["resume"] and v["overwrite"],
         "cannot continue a run that overwrite deletes", "give one of the two"),
    Rule("resume_anyway", lambda v: v["resume_anyway"] and not v["resume"],
         "does nothing without resume", "add --resume"),
    Rule("resume_from_checkpoint", lambda v: v["resume_from_checkpoint"] is not None,
         "is not supported: align chooses the newest complete checkpoint", "use --resume instead"),
    Rule("save_only_model", lambda v: v["save_only_model"] and v["resume"],
         "saves no optimizer, so a run cannot resume", "leave one of the two out"),
    Rule("ignore_data_skip", lambda v: v["ignore_data_skip"] and v["resume"],
         "would train on the first rows again", "leave it out"),
    Rule("sync_ref_model", lambda v: bool(v.get("sync_ref_model")) and v["resume"],
         "cannot resume: checkpoints do not hold the moved reference",
         "start again with --overwrite, or leave it out"),
    Rule("sync_ref_model", lambda v: bool(v.get("sync_ref_model")) and v["use_peft"],
         "needs a reference model of its own, and an adapter has none",
         "leave one of the two out"),
    Rule("sync_ref_model",
         lambda v: bool(v.get("sync_ref_model")) and bool(v.get("precompute_ref_log_probs")),
         "changes the reference, whose log-probabilities are computed only once",
         "leave one of the two out"),
    Rule("eval_fraction", lambda v: bool(v["eval_data"]) and v["eval_fraction"] > 0,
         "is not used when eval_data is given", "give one of the two"),
    Rule("eval_strategy", lambda v: v["eval_strategy"] != "no" and not has_held_out_rows(v),
         "{}, but no rows are held out", "give --eval_data FILE or --eval_fraction 0.05"),
    Rule("load_best_model_at_end",
         lambda v: v["load_best_model_at_end"] and v["save_strategy"] == "no",
         "needs checkpoints, but save_strategy is no", "set save_strategy: steps"),
    Rule("load_best_model_at_end",
         lambda v: v["load_best_model_at_end"] and v["eval_strategy"] == "no",
         "needs evaluations, but eval_strategy is no", "set eval_strategy to save_strategy"),
    Rule("load_best_model_at_end",
         lambda v: v["load_best_model_at_end"] and v["save_strategy"] != "best"
         and v["eval_strategy"] != v["save_strategy"],
         "needs eval_strategy and save_strategy to be the same", "set both to steps, or to epoch"),
    Rule("save_strategy", lambda v: v["save_strategy"] == "best" and v["eval_strategy"] == "no",
         "best needs evaluations, but eval_strategy is no", "set eval_strategy: steps"),
    Rule("early_stopping_patience",
         lambda v: v["early_stopping_patience"] is not None and v["eval_strategy"] == "no",
         "needs evaluations, but eval_strategy is no", "set eval_strategy: steps"),
    Rule("auto_find_batch_size", lambda v: v["auto_find_batch_size"] and not v["preflight"],
         "needs preflight, which is off", "leave one of the two out"),
    Rule("auto_find_batch_size",
         lambda v: v["auto_find_batch_size"]
         and bool(v["deepspeed"] or v["fsdp"] or v["torch_compile"] or v["ddp_static_graph"]),
         "cannot try a batch under deepspeed, fsdp, torch_compile or ddp_static_graph",
         "leave it out"),
    Rule("bf16", lambda v: bool(v["bf16"]) and v["fp16"],
         "cannot be on together with fp16", "give one of the two"),
    Rule("dtype", loses_updates,
         "{} rounds most updates of a whole model to nothing: at a learning rate of 1e-6 under 1 % "
         "of the weights change",
         "leave dtype out (float32 weights) and set bf16: true (to compute in bfloat16)"),
    Rule("dtype", splits_precision,
         "float32, but bf16 trains the adapter in bfloat16, which needs half the memory",
         "leave dtype out, or set bf16: false"),
    Rule("model_init_kwargs", _names_precision,
         "dtype and quantization are keys of their own",
         "set dtype, load_in_4bit or load_in_8bit instead"),
    Rule("lora_modules_to_save",
         lambda v: bool(v["lora_modules_to_save"]) and v["dtype"] in COARSE
         and not (v["fp16"] or uses_bf16(v, gpu=True)),
         "they are trained in float32, which a base in 16 bits cannot multiply without bf16",
         "set bf16: true, or dtype: float32"),
    Rule("attn_implementation",
         lambda v: "flash" in (v["attn_implementation"] or "") and computes_in_float32(v),
         "{} computes in 16 bits only, and this run computes in float32", "set bf16: true"),
    Rule("fp16", lambda v: v["fp16"] and v["use_cpu"],
         "needs a GPU, and use_cpu is set", "leave one of the two out"),
    Rule("load_in_4bit", lambda v: v["load_in_4bit"] and v["load_in_8bit"],
         "cannot be on together with load_in_8bit", "give one of the two"),
    Rule("load_in_4bit", lambda v: v["load_in_4bit"] and not v["use_peft"],
         "trains nothing without an adapter", "add --use_peft"),
    Rule("load_in_8bit", lambda v: v["load_in_8bit"] and not v["use_peft"],
         "trains nothing without an adapter", "add --use_peft"),
)  # fmt: skip


def check_combinations(
    stage: str, values: Values, source: Callable[[str], str], *, elsewhere: bool = False
) -> None:
    """Check that values can work, alone and together; ``source`` gives the place of a key.

    ``elsewhere`` means that the run is for another machine, so packages may be missing on this one.

    Raises:
        ConfigError: The first value that cannot work, with its place and a remedy.
    """
    for key, why, remedy in chain(_faults(stage, values, elsewhere), _other_masks(values, source)):
        raise ConfigError(f"{place_of(source(key))}{key}: {why}", remedy)
    try:
        _check_rewards(values.get("reward_model") or [])
    except ConfigError as error:
        raise ConfigError(
            f"{place_of(source('reward_model'))}{error.message}", error.remedy
        ) from None


def _other_masks(values: Values, source: Callable[[str], str]) -> Iterator[tuple[str, str, str]]:
    """Report keys of TRL that contradict `loss_on`, which decides the loss mask."""
    for key in ("assistant_only_loss", "completion_only_loss"):
        if key not in values or source(key) == "default" or values[key] is None:
            continue
        if not values[key] and values["loss_on"] != "all":
            yield key, "false asks for loss on every token", "set loss_on: all instead"
        if values[key] and values["loss_on"] == "all":
            yield key, "true, but loss_on is all", "give one of the two"


def _faults(stage: str, values: Values, elsewhere: bool) -> Iterator[tuple[str, str, str]]:
    for rule in (*_RULES, *LATE_RULES, *STAGES[stage].rules):
        if rule.is_wrong(values):
            yield rule.key, rule.why.format(values[rule.key]), rule.remedy
    yield from late_faults(values)
    yield from _unknown_trackers(values)
    if not elsewhere:
        yield from _missing_packages(values)
    yield from _missing_files(values)
    yield from _unknown_losses(stage, values)
    yield from _unknown_metric(stage, values)
    yield from _endangered(values)


def _check_rewards(names: list[str]) -> None:
    for reward in map(parse_reward, names):
        if reward.kind is RewardKind.FUNCTION:
            find_source(reward)


def _unknown_trackers(values: Values) -> Iterator[tuple[str, str, str]]:
    for name in _trackers(values):
        if name not in TRACKERS:
            yield "report_to", f"no tracker '{name}'", f"one of none, {', '.join(TRACKERS)}"


def _trackers(values: Values) -> list[str]:
    return [name for name in reporters(values["report_to"]) if name not in ("none", "all")]


def _missing_packages(values: Values) -> Iterator[tuple[str, str, str]]:
    for name in _trackers(values):
        package = TRACKERS[name].package
        if package and not _is_installed(package):
            yield "report_to", f"{name} is not installed", f"pip install {package}"
    for key, value, package, extra in _PACKAGES:
        if values.get(key) == value and not _is_installed(package):
            how = f"'alignment-pipeline[{extra}]'" if extra else package.replace("_", "-")
            named = "" if value is True else f"{value}: "
            yield key, f"{named}{package} is not installed", f"pip install {how}"
    needed = optimizer_package(values["optim"])
    if needed and not _is_installed(needed):
        pip = {"bitsandbytes": "'alignment-pipeline[quant]'", "optimi": "torch-optimi"}
        how = pip.get(needed, needed.replace("_", "-"))
        yield "optim", f"{values['optim']}: {needed} is not installed", f"pip install {how}"
    if values["deepspeed"] and not _is_installed("deepspeed"):
        yield "deepspeed", "deepspeed is not installed", "pip install deepspeed"


def _missing_files(values: Values) -> Iterator[tuple[str, str, str]]:
    for key in ("deepspeed", "fsdp_config", "accelerator_config"):
        value = values.get(key)
        if not isinstance(value, str) or not value:
            continue
        if not Path(value).is_file():
            yield key, f"{value}: no such file", f"looked from {Path.cwd()}"
            continue
        try:
            json.loads(Path(value).read_text(encoding="utf-8"))
        except ValueError as error:
            yield key, f"{value}: not JSON: {error}", "fix the file"
    if values.get("chat_template") and values.get("chat_template_path"):
        yield "chat_template_path", "names a second chat template", "give one of the two"
    template = values.get("chat_template_path")
    if template and not Path(template).exists() and template.endswith((".jinja", ".j2")):
        yield "chat_template_path", f"{template}: no such file", f"looked from {Path.cwd()}"


def _unknown_losses(stage: str, values: Values) -> Iterator[tuple[str, str, str]]:
    known = STAGES[stage].losses
    if not known:
        return
    given = values["loss_type"] or ()
    for loss in (given,) if isinstance(given, str) else given:
        if loss not in known:
            yield "loss_type", f"no loss '{loss}'", f"one of {', '.join(known)}"


def _unknown_metric(stage: str, values: Values) -> Iterator[tuple[str, str, str]]:
    """Report a metric that no evaluation has, or whose direction nobody knows."""
    metric, measured = values["metric_for_best_model"], STAGES[stage]
    if metric is None:
        return
    if not measured.measures(metric):
        names = ", ".join(name + "..." * name.endswith("/") for name in measured.metrics)
        yield "metric_for_best_model", f"no evaluation has '{metric}'", f"one of {names}"
    elif measured.direction(metric) is None and values["greater_is_better"] is None:
        yield (
            "metric_for_best_model",
            f"{metric} is not known to be better when it is greater, or less",
            "set greater_is_better: true or false",
        )


def _endangered(values: Values) -> Iterator[tuple[str, str, str]]:
    """Report an output folder that contains inputs: overwrite would delete them."""
    folder = Path(values["output_dir"]).resolve()
    if folder in (Path.cwd(), Path.home(), *Path.cwd().parents):
        yield (
            "output_dir",
            f"{folder}: to overwrite it would delete your files",
            "name a folder below it",
        )
    for key in ("model_name_or_path", "train_data", "eval_data"):
        given = values[key] or []
        for path in [given] if isinstance(given, str) else given:
            inside = Path(path).resolve()
            if Path(path).exists() and (inside == folder or folder in inside.parents):
                yield "output_dir", f"{folder} contains {key} {path}", "choose another output_dir"


def _is_installed(package: str) -> bool:
    return PathFinder.find_spec(package) is not None
