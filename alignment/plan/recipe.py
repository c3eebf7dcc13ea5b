"""From the settings of a stage to the work that it will be, in any of its forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from alignment.plan.origins import Origin, Values, first_origin, reward_origins
from alignment.plan.rows import Lengths, measure_rows
from alignment.plan.work import Batch, Device, Form, Launch, RewardModel, Work
from alignment.registry import STAGES, Stage
from alignment.settings.precision import loaded_dtype, uses_bf16

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage to estimate: its name in a pipeline, where it starts, its rows and its launch."""

    name: str
    stage: Stage
    values: Values
    origin: Origin
    rewards: tuple[Origin, ...]
    lengths: Lengths
    launch: Launch

    @property
    def form(self) -> Form:
        """The form that the recipe asks for; an adapter is trained further as one."""
        if not self.values["use_peft"] and self.origin.adapter is None:
            return "full"
        return "qlora" if self.values["load_in_4bit"] or self.values["load_in_8bit"] else "lora"

    def dtype(self, form: Form, device: Device) -> str:
        """The dtype that the policy is loaded in."""
        found = loaded_dtype(self.values, adapted=form != "full", gpu=device == "gpu")
        return self.origin.dtype if found == "auto" else found

    def work(self, form: Form, device: Device) -> Work:
        """The work in a form on a device."""
        values, origin = self.values, self.origin
        from_policy = values.get("critic_init") == "policy" or not self.rewards
        return Work(
            stage=self.stage,
            config=origin.config,
            form=form,
            device=device,
            batch=_batch(self.stage, values, self.lengths),
            dtype=self.dtype(form, device),
            autocast=_autocast(values, device),
            adapter=origin.adapter or _new_adapter(values),
            is_adapter_trained=origin.adapter is not None,
            quantized=_quantized(values) if form == "qlora" else "",
            attention=values["attn_implementation"],
            checkpointing=bool(_checkpointing(values)),
            checkpointing_kwargs=tuple((_checkpointing(values, "_kwargs") or {}).items()),
            drops_out=not values.get("disable_dropout", False),
            optimizer=values["optim"],
            reference=self.stage.has_reference(values),
            precomputes_reference=bool(values.get("precompute_ref_log_probs")),
            critic=values.get("critic") or "head",
            critic_config=None if from_policy else self.rewards[0].config,
            rewards=tuple(_reward(reward, origin, form, values) for reward in self.rewards),
            entropy_gradient=bool(values.get("entropy_coef")),
        )

    def result(self) -> Origin:
        """What a later stage starts from."""
        origin = replace(self.origin, start=self.lengths.start)
        if self.form == "full":
            return replace(origin, dtype=self.dtype("full", "cpu"))
        return replace(origin, adapter=origin.adapter or _new_adapter(self.values))


def read_stage(
    name: str,
    stage: str,
    values: Values,
    given: Mapping[str, Origin] | None = None,
    *,
    launch: Launch | None = None,
) -> StagePlan:
    """Find the models and rows of a stage.

    Args:
        name: Of the stage in its pipeline.
        stage: What it is.
        values: Its settings.
        given: What earlier stages of a pipeline hand on, by role.
        launch: How it is launched; None: in one process.

    Raises:
        ConfigError: A model is not named, or its config cannot be read.
        DataError: A row of the sample cannot be used.
    """
    facts, known = STAGES[stage], given or {}
    origin = known["model"] if "model" in known else first_origin(values)
    rewards: tuple[Origin, ...] = ()
    if "reward_model" in facts.roles:
        given_reward = known.get("reward_model")
        rewards = (given_reward,) if given_reward else reward_origins(values)
    lengths = measure_rows(facts, values, origin.start)
    return StagePlan(name, facts, values, origin, rewards, lengths, launch or Launch())


def _reward(reward: Origin, policy: Origin, form: Form, values: Values) -> RewardModel:
    """A LoRA reward model uses the policy's base if it is the same; else it is merged."""
    shares = form != "full" and values["share_base"] and reward.base == policy.base
    return RewardModel(reward.config, reward.dtype, reward.adapter if shares else None)


def _batch(stage: Stage, values: Values, lengths: Lengths) -> Batch:
    rows = values["per_device_train_batch_size"]
    accumulation = values["gradient_accumulation_steps"]
    length = lengths.longest
    if stage.samples:
        rollout = values["generation_batch_size"] or rows * (
            values["steps_per_generation"] or accumulation
        )
        whole = lengths.prompt + values["max_completion_length"]
        return Batch(rows, whole, accumulation, lengths.prompt, rollout)
    if not stage.joins_rows:
        return Batch(rows * stage.rows_per_example, length, accumulation)
    if values["packing"]:
        length = values["max_length"] or length
    if values["padding_free"] or (values["packing"] and values["packing_strategy"] != "wrapped"):
        return Batch(1, rows * length, accumulation)
    return Batch(rows, length, accumulation)


def _new_adapter(values: Values) -> LoraConfig:
    """The adapter that a recipe's LoRA keys describe, whether it asks for one or not."""
    from trl import ModelConfig, get_peft_config

    names = [field.name for field in fields(ModelConfig) if "lora" in field.name]
    keys = {name: values[name] for name in (*names, "use_dora") if name in values}
    adapter: LoraConfig = get_peft_config(ModelConfig(**keys, use_peft=True))
    return adapter


def _quantized(values: Values) -> str:
    if values["load_in_8bit"] and not values["load_in_4bit"]:
        return "8bit"
    return "nested-4bit" if values["use_bnb_nested_quant"] else "4bit"


def _autocast(values: Values, device: Device) -> bool:
    """Whether a run computes in 16 bits; the GPU that is planned for can."""
    return bool(values["fp16"]) or uses_bf16(values, gpu=device == "gpu")


def _checkpointing(values: Values, suffix: str = "") -> Any:
    """The value of a key that transformers 5.23 renamed."""
    given = values.get(f"activation_checkpointing{suffix}")
    return values[f"gradient_checkpointing{suffix}"] if given is None else given
