"""From the settings of a stage to the work that it will be, in any of its forms."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import ConfigError
from alignment.models.folders import adapter_base
from alignment.models.parents import check_critic
from alignment.models.tokenizer import load_tokenizer
from alignment.plan.launched import Launch
from alignment.plan.rows import Lengths, measure_rows
from alignment.plan.work import Batch, Device, Form, Lora, RewardModel, Work
from alignment.runs.files import ADAPTER_CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """A model to start from or to score with: its shape, its adapter, the dtype on disk.

    ``base`` names the whole model under it all, whose tokenizer it has.
    """

    config: "PreTrainedConfig"
    base: str
    lora: Lora | None = None
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage to estimate: its name, where it starts, its rows, its keys, its launch."""

    name: str
    stage: str
    values: Values
    origin: Origin
    rewards: tuple[Origin, ...]
    lengths: Lengths
    launch: Launch = field(default_factory=Launch)

    @property
    def form(self) -> Form:
        """The form that the recipe asks for; an adapter is trained further as one."""
        if not self.values["use_peft"] and self.origin.lora is None:
            return "full"
        return "qlora" if self.values["load_in_4bit"] or self.values["load_in_8bit"] else "lora"

    def work(self, form: Form, device: Device, **changed: Any) -> Work:
        """The work in a form, with some keys changed."""
        values = {**self.values, **changed}
        return _work(self, values, form, device)

    def result(self) -> Origin:
        """What a later stage starts from."""
        if self.form == "full":
            return Origin(
                self.origin.config, self.origin.base, None, self.values["dtype"] or "auto"
            )
        lora = replace(_lora(self.values, self.origin), is_trained=True)
        return Origin(self.origin.config, self.origin.base, lora, self.origin.dtype)


def read_stage(
    name: str,
    stage: str,
    values: Values,
    given: Mapping[str, Origin] | None = None,
    *,
    launch: Launch | None = None,
) -> StagePlan:
    """Find the models and rows of a stage; ``given`` are those of earlier stages, by role.

    Raises:
        ConfigError: a model is not named, or its config cannot be read.
        DataError: a row of the sample cannot be used.
    """
    known = given or {}
    origin = known["model"] if "model" in known else _first_origin(values)
    rewards = _rewards(values, known) if stage == "ppo" else ()
    lengths = measure_rows(stage, values, _tokenizer(origin.base, values))
    return StagePlan(name, stage, values, origin, rewards, lengths, launch or Launch())


def _first_origin(values: Values) -> Origin:
    """What a stage starts from that no earlier stage makes."""
    path = values["model_name_or_path"]
    if not path:
        raise ConfigError(
            "model_name_or_path: no model is named",
            "give --model_name_or_path DIR, or plan the pipeline that has this stage",
        )
    check_critic(values)
    return read_origin(str(path), values)


def _rewards(values: Values, known: Mapping[str, Origin]) -> tuple[Origin, ...]:
    if "reward_model" in known:
        return (known["reward_model"],)
    specs = [s for s in values["reward_model"] if Path(s).is_dir() or ":" not in s]
    return tuple(read_origin(spec, values, key="reward_model") for spec in specs)


def read_origin(path: str, values: Values, *, key: str = "model_name_or_path") -> Origin:
    """The shape of a model from its config alone; of an adapter, that of its base.

    Raises:
        ConfigError: there is no config, or none that transformers knows.
    """
    from transformers import AutoConfig

    base = adapter_base(path)
    lora = None
    if base is not None:
        found = json.loads((Path(path) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        targets = found.get("target_modules")
        lora = Lora(
            r=int(found.get("r", 8)),
            alpha=int(found.get("lora_alpha", 8)),
            dropout=float(found.get("lora_dropout", 0)),
            targets=tuple(sorted(targets)) if isinstance(targets, list) else targets,
            use_dora=bool(found.get("use_dora", False)),
            is_trained=True,
        )
    try:
        config = AutoConfig.from_pretrained(
            base or path,
            revision=values["model_revision"],
            trust_remote_code=values["trust_remote_code"],
        )
    except (OSError, ValueError, KeyError) as error:
        why = (str(error).strip().splitlines() or ["unknown"])[0]
        if not Path(base or path).exists():
            why = "no such folder, and no hub model that can be reached"
        raise ConfigError(
            f"{key}: {base or path}: no config to plan with: {why}",
            "give a model's folder, or a hub name (behind a slow network: HF_ENDPOINT)",
        ) from error
    return Origin(config, base or path, lora)


def _tokenizer(path: str, values: Values) -> "PreTrainedTokenizerBase | None":
    try:
        return load_tokenizer(path, trust_remote_code=values["trust_remote_code"])
    except ConfigError:
        return None


def _work(plan: StagePlan, values: Values, form: Form, device: Device) -> Work:
    stage, origin = plan.stage, plan.origin
    beta = values.get("beta")
    rewards = tuple(_reward(reward, origin, form, values) for reward in plan.rewards)
    critic = plan.rewards[0] if plan.rewards and values.get("critic_init") != "policy" else None
    return Work(
        stage=stage,
        config=origin.config,
        form=form,
        device=device,
        batch=_batch(stage, values, plan.lengths),
        dtype=values["dtype"] or "auto",
        autocast=_autocast(values, device),
        lora=_lora(values, origin),
        quantized=_quantized(values) if form == "qlora" else "",
        attention=values["attn_implementation"],
        checkpointing=_checkpointing(values),
        checkpointing_kwargs=tuple((_checkpointing_kwargs(values) or {}).items()),
        drops_out=not values.get("disable_dropout", False),
        optimizer=values["optim"],
        reference=stage == "dpo" or (stage == "ppo" and bool(beta)),
        precomputes_reference=bool(values.get("precompute_ref_log_probs")),
        critic=values.get("critic") or "head",
        critic_config=critic.config if critic else None,
        rewards=rewards,
        entropy_gradient=bool(values.get("entropy_coef")),
    )


def _reward(reward: Origin, policy: Origin, form: Form, values: Values) -> RewardModel:
    """A LoRA reward model sits on the policy's base where there is one; else it is merged."""
    shares = form != "full" and values["share_base"] and reward.base == policy.base
    return RewardModel(reward.config, reward.dtype, reward.lora if shares else None)


def _batch(stage: str, values: Values, lengths: Lengths) -> Batch:
    rows, accumulation = (
        values["per_device_train_batch_size"],
        values["gradient_accumulation_steps"],
    )
    length = lengths.longest
    if stage == "ppo":
        rollout = values["generation_batch_size"] or rows * (
            values["steps_per_generation"] or accumulation
        )
        whole = lengths.prompt + values["max_completion_length"]
        return Batch(rows, whole, accumulation, lengths.prompt, rollout)
    if values.get("packing"):
        length = values["max_length"] or length
    joined = values.get("padding_free") and stage in ("pt", "sft")
    if joined or (values.get("packing") and values["packing_strategy"] != "wrapped"):
        return Batch(1, rows * length, accumulation)
    return Batch(rows * (2 if stage in ("rm", "dpo") else 1), length, accumulation)


def _lora(values: Values, origin: Origin) -> Lora:
    if origin.lora is not None:
        return origin.lora
    targets = values["lora_target_modules"]
    if isinstance(targets, list):
        targets = targets[0] if targets == ["all-linear"] else tuple(targets)
    return Lora(
        r=values["lora_r"],
        alpha=values["lora_alpha"],
        dropout=values["lora_dropout"],
        targets=targets,
        modules_to_save=tuple(values["lora_modules_to_save"] or ()),
        use_dora=values["use_dora"],
    )


def _quantized(values: Values) -> str:
    if values["load_in_8bit"] and not values["load_in_4bit"]:
        return "8bit"
    return "nested-4bit" if values["use_bnb_nested_quant"] else "4bit"


def _autocast(values: Values, device: Device) -> bool:
    """As `alignment.settings.resolve.build` does: bfloat16 by default where there is a GPU."""
    if values["bf16"] or values["fp16"]:
        return True
    return values["bf16"] is None and device == "gpu" and not values["use_cpu"]


def _checkpointing(values: Values) -> bool:
    given = values.get("activation_checkpointing")
    return bool(values["gradient_checkpointing"] if given is None else given)


def _checkpointing_kwargs(values: Values) -> Any:
    return values.get("activation_checkpointing_kwargs") or values["gradient_checkpointing_kwargs"]
