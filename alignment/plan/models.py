"""Models without storage: the real classes and PEFT's real adapters, on torch's meta device.

A model of 70B parameters takes no memory there, and has the parameters that it will have in a run.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from alignment.plan.sizes import (
    bytes_of,
    decoder_layers,
    gathered_bytes,
    largest_frozen,
    quantized_saving,
)

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedConfig

    from alignment.plan.work import Work

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(slots=True)
class Held:
    """Bytes that the models of a stage and their gradients take.

    Attributes:
        weights: Of the policy.
        gathered: Of those, what is whole on each device while weights are sharded.
        dequantized: The copy in 16 bits of a quantized weight while it multiplies.
    """

    weights: int
    gathered: int
    dequantized: int = 0
    reference: int = 0
    critic: int = 0
    rewards: int = 0
    gradients: int = 0


@dataclass(slots=True)
class Models:
    """Everything that a stage holds at once.

    Attributes:
        policy: The model that is trained, in PEFT's wrapper if it has an adapter.
        base: The same without the wrapper.
        parameters: Those of the policy without its adapter.
        held: What all of them take.
        reference: None if there is none, or if it is the policy without its adapter.
        critic: None if there is none.
        rewards: Reward models that are whole models.
    """

    policy: Any
    base: Any
    parameters: int
    held: Held
    reference: Any = None
    critic: Any = None
    rewards: list[Any] = field(default_factory=list)

    @property
    def layers(self) -> nn.ModuleList:
        """The repeated blocks of the policy."""
        return decoder_layers(self.base)

    def every(self) -> list[Any]:
        """Every model once."""
        return [m for m in (self.policy, self.reference, self.critic, *self.rewards) if m]

    def trained(self) -> list[torch.Tensor]:
        """The parameters that the optimizer changes, of policy and critic."""
        found = {id(p): p for m in (self.policy, self.critic) if m for p in m.parameters()}
        return [p for p in found.values() if p.requires_grad]


def build_models(work: Work) -> Models:
    """The models of a stage as its trainer builds them."""
    is_classifier = work.stage.classifier
    base = (_classifier if is_classifier else _causal_model)(work.config, work.dtype, work)
    parameters = sum(p.numel() for p in base.parameters())
    policy = base
    if work.form != "full":
        assert work.adapter is not None
        policy = add_adapter(base, work.adapter, is_classifier=is_classifier)
        for parameter in policy.parameters():
            if parameter.requires_grad:  # as `models.policy.train_in_float32` does
                parameter.data = parameter.data.float()
    weights = bytes_of(policy) - quantized_saving(base, work.quantized)
    held = Held(weights, gathered_bytes(base, work.quantized))
    if work.quantized:
        held.dequantized = 2 * largest_frozen(base)
    models = Models(policy, base, parameters, held)
    if work.reference and not work.precomputes_reference:
        _add_reference(work, models)
    if work.stage.critic:
        _add_critic(work, models)
    _add_rewards(work, models)
    held.gradients = sum(p.numel() * p.element_size() for p in models.trained())
    return models


def _add_reference(work: Work, models: Models) -> None:
    if work.form == "full":
        models.reference = _causal_model(work.config, work.dtype, work)
        models.reference.eval().requires_grad_(False)
        models.held.reference = bytes_of(models.reference)
    elif work.is_adapter_trained:  # TRL keeps a copy of the adapter as it was
        models.held.reference = bytes_of(models.policy, is_trained=True)


def _add_critic(work: Work, models: Models) -> None:
    from alignment.ppo.critic import ModelCritic, ValueHead, lora_critic

    with torch.device("meta"):
        head = ValueHead(int(work.config.get_text_config().hidden_size))
        if work.critic == "head":
            models.critic = head
        elif work.critic == "lora":
            before = bytes_of(models.policy)
            models.critic = lora_critic(models.policy, without_dropout=not work.drops_out)
            models.held.critic = bytes_of(models.policy) - before
        else:
            whole = _causal_model(work.critic_config or work.config, work.dtype, work)
            whole.to(torch.float32)
            models.critic = ModelCritic(whole.base_model, head)
    models.critic.requires_grad_(True)
    models.held.critic += bytes_of(models.critic)


def _add_rewards(work: Work, models: Models) -> None:
    """Reward models are loaded whole, a LoRA one merged, unless the policy's base serves them."""
    for reward in work.rewards:
        if reward.adapter is None:
            model = _classifier(reward.config, reward.dtype, work).eval().requires_grad_(False)
            models.rewards.append(model)
            models.held.rewards += bytes_of(model)
        else:
            adapter = copy.deepcopy(reward.adapter)
            adapter.modules_to_save = None  # its score head, which is small
            model = add_adapter(_causal_model(reward.config, reward.dtype, work), adapter)
            models.held.rewards += bytes_of(model, is_trained=True)


def add_adapter(model: Any, adapter: LoraConfig, *, is_classifier: bool = False) -> Any:
    """Put a LoRA adapter on a model, to be trained; a classifier's score head is trained too."""
    from peft import get_peft_model

    config = copy.deepcopy(adapter)
    config.inference_mode = False  # true in adapters on disk
    config.task_type = "SEQ_CLS" if is_classifier else "CAUSAL_LM"
    if is_classifier:
        config.modules_to_save = [*(config.modules_to_save or ()), "score"]
    with torch.device("meta"):
        return get_peft_model(model, config)


def _causal_model(config: PreTrainedConfig, dtype: str, work: Work) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config, dtype=_DTYPES[dtype], attn_implementation=_attention(work)
        )


def _classifier(config: PreTrainedConfig, dtype: str, work: Work) -> Any:
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(config)
    config.num_labels = 1
    text = config.get_text_config()
    if text.pad_token_id is None:
        text.pad_token_id = 0
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(
            config, dtype=_DTYPES[dtype], attn_implementation=_attention(work)
        )


def _attention(work: Work) -> str | None:
    """Flash attention keeps what sdpa keeps: no scores; its package need not be installed here."""
    return "sdpa" if work.attention and "flash" in work.attention else work.attention


def at_depth(work: Work, depth: int) -> Work:
    """The same stage with fewer layers in every model."""
    critic = with_depth(work.critic_config, depth) if work.critic_config else None
    rewards = tuple(replace(r, config=with_depth(r.config, depth)) for r in work.rewards)
    config = with_depth(work.config, depth)
    return replace(work, config=config, critic_config=critic, rewards=rewards)


def with_depth(config: PreTrainedConfig, depth: int) -> PreTrainedConfig:
    """The same model with fewer layers."""
    shallow = copy.deepcopy(config)
    text = shallow.get_text_config()
    full = text.num_hidden_layers
    for_each_layer = {
        name: value[:depth]
        for name, value in text.to_dict().items()
        if isinstance(value, list | tuple) and len(value) == full and name != "architectures"
    }
    text.update({**for_each_layer, "num_hidden_layers": depth})
    return shallow


def take_shape(model: nn.Module) -> None:
    """Give a model tensors of the current FakeTensorMode, of the same shapes; tied ones stay tied.

    FakeTensorMode cannot build the models itself: ``module.to`` fails on its tensors.
    """
    known: dict[int, Any] = {}
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(p) not in known:
                empty = torch.empty(p.shape, dtype=p.dtype)
                known[id(p)] = nn.Parameter(empty, requires_grad=p.requires_grad)
            module.register_parameter(name, known[id(p)])
        for name, b in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            if id(b) not in known:
                known[id(b)] = torch.empty(b.shape, dtype=b.dtype)
            module.register_buffer(name, known[id(b)])
