"""Models without storage: the real classes and PEFT's real adapters, on torch's meta device.

A model of 70B parameters costs nothing there, and counts its parameters as the loaded one would.
"""

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from alignment.plan.ledger import bytes_of, decoder_layers
from alignment.plan.work import Lora, RewardModel, Work

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: Bytes of a weight that bitsandbytes quantizes, with its scales: a float32 scale for each 64
#: weights (nested: one byte for each 64, and a float32 for each 256 of those); 8 bit: one a row.
QUANTIZED_BYTES = {"4bit": 0.5 + 4 / 64, "nested-4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def with_depth(config: "PreTrainedConfig", depth: int) -> "PreTrainedConfig":
    """The same model with fewer layers."""
    shallow = copy.deepcopy(config)
    text = shallow.get_text_config()
    full = text.num_hidden_layers
    for name, value in text.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == full and name != "architectures":
            setattr(text, name, value[:depth])
    text.num_hidden_layers = depth
    return shallow


def torch_dtype(name: str, config: "PreTrainedConfig") -> torch.dtype:
    """The dtype of a key; `auto` is what the weights are stored in."""
    if name in _DTYPES:
        return _DTYPES[name]
    stored = str(config.get_text_config().dtype or config.dtype or "float32")
    return _DTYPES[stored.removeprefix("torch.")]


def causal_model(config: "PreTrainedConfig", dtype: str, attention: str | None) -> Any:
    """A causal language model."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config, dtype=torch_dtype(dtype, config), attn_implementation=_known(attention)
        )


def classifier(config: "PreTrainedConfig", dtype: str, attention: str | None) -> Any:
    """A sequence classifier with one label, as reward models are."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(config)
    config.num_labels = 1
    text = config.get_text_config()
    if text.pad_token_id is None:
        text.pad_token_id = 0
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(
            config, dtype=torch_dtype(dtype, config), attn_implementation=_known(attention)
        )


@dataclass(slots=True)
class Models:
    """Everything that a stage holds at once; ``base`` is the policy without PEFT's wrapper.

    ``held`` are the bytes of each part: weights, gradients, reference, critic, reward models;
    ``parameters`` counts those of the policy without its adapter.
    """

    policy: Any
    base: Any
    reference: Any = None
    critic: Any = None
    rewards: list[Any] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    parameters: int = 0

    def every(self) -> list[Any]:
        """Every model once; a critic on the policy's base is part of neither's parameters."""
        return [m for m in (self.policy, self.reference, self.critic, *self.rewards) if m]

    def trained(self) -> list[torch.Tensor]:
        """The parameters that the optimizer moves, of policy and critic."""
        found = {id(p): p for m in (self.policy, self.critic) if m for p in m.parameters()}
        return [p for p in found.values() if p.requires_grad]


def build_models(work: Work) -> Models:
    """The models of a stage on the meta device, as its trainer builds them, and what they hold."""
    build = classifier if work.stage == "rm" else causal_model
    base = build(work.config, work.dtype, work.attention)
    parameters = sum(p.numel() for p in base.parameters())
    policy = base
    if work.form != "full":
        policy = add_adapter(base, work.lora, is_classifier=work.stage == "rm")
        if work.quantized:
            _adapters_in_bfloat16(policy)
    models = Models(policy, base, parameters=parameters)
    saved = quantized_saving(base, work.quantized)
    held = {"weights": bytes_of(policy) - saved, "reference": 0, "critic": 0, "rewards": 0}
    trained = bytes_of(policy, trainable=True)
    if work.reference and not work.precomputes_reference:
        if work.form == "full":
            models.reference = causal_model(work.config, work.dtype, work.attention)
            models.reference.eval().requires_grad_(False)
            held["reference"] = bytes_of(models.reference)
        elif work.lora.is_trained:  # TRL keeps a copy of an adapter that was there before
            held["reference"] = trained
    if work.stage == "ppo":
        _add_critic(work, models, held)
        _add_rewards(work, models, held)
    held["gradients"] = sum(p.numel() * p.element_size() for p in models.trained())
    models.held = held
    return models


def _add_critic(work: Work, models: Models, held: dict[str, int]) -> None:
    from alignment.ppo.adapters import add_critic_adapter
    from alignment.ppo.critic import CRITIC, LoraCritic, ModelCritic, ValueHead

    width = int(work.config.get_text_config().hidden_size)
    with torch.device("meta"):
        if work.critic == "head":
            models.critic = ValueHead(width)
        elif work.critic == "lora":
            before = bytes_of(models.policy)
            add_critic_adapter(models.policy, CRITIC)
            held["critic"] = bytes_of(models.policy) - before
            models.critic = LoraCritic(models.policy, ValueHead(width))
        else:
            trained = next(p.dtype for p in models.policy.parameters() if p.requires_grad)
            whole = causal_model(work.critic_config or work.config, work.dtype, work.attention)
            whole.to(trained)
            models.critic = ModelCritic(whole.base_model, ValueHead(width))
    models.critic.requires_grad_(True)
    held["critic"] += bytes_of(models.critic)


def _add_rewards(work: Work, models: Models, held: dict[str, int]) -> None:
    for reward in work.rewards:
        if reward.lora is None:
            model = reward_model(reward, work.attention)
            models.rewards.append(model)
            held["rewards"] += bytes_of(model)
        else:
            base = causal_model(reward.config, work.dtype, work.attention)
            held["rewards"] += bytes_of(add_adapter(base, reward.lora), trainable=True)


def _adapters_in_bfloat16(policy: nn.Module) -> None:
    """TRL keeps adapters on a quantized base in bfloat16, as QLoRA's paper advises."""
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def at_depth(work: Work, depth: int) -> Work:
    """The same stage with fewer layers in every model."""
    critic = with_depth(work.critic_config, depth) if work.critic_config else None
    rewards = tuple(replace(r, config=with_depth(r.config, depth)) for r in work.rewards)
    config = with_depth(work.config, depth)
    return replace(work, config=config, critic_config=critic, rewards=rewards)


def add_adapter(model: Any, lora: Lora, *, is_classifier: bool = False) -> Any:
    """Put a LoRA adapter on a model, as TRL does from the same keys."""
    from peft import LoraConfig, get_peft_model

    targets: Any = list(lora.targets) if isinstance(lora.targets, tuple) else lora.targets
    saved = [*lora.modules_to_save, *(["score"] if is_classifier else [])]
    config = LoraConfig(
        task_type="SEQ_CLS" if is_classifier else "CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=saved or None,
        use_dora=lora.use_dora,
    )
    with torch.device("meta"):
        return get_peft_model(model, config)


def take_shape(model: nn.Module) -> None:
    """Give the current FakeTensorMode tensors of the same shapes, tied ones still tied."""
    known: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(p) not in known:
                empty = torch.empty(p.shape, dtype=p.dtype)
                known[id(p)] = nn.Parameter(empty, requires_grad=p.requires_grad)
            setattr(module, name, known[id(p)])
        for name, b in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            if id(b) not in known:
                known[id(b)] = torch.empty(b.shape, dtype=b.dtype)
            setattr(module, name, known[id(b)])


def reward_model(reward: RewardModel, attention: str | None) -> Any:
    """A reward model of its own, as it is loaded to score; a LoRA one is merged."""
    return classifier(reward.config, reward.dtype, attention).eval().requires_grad_(False)


def quantized_saving(model: nn.Module, kind: str) -> int:
    """Bytes saved by quantizing the frozen linear layers; embeddings and head stay as they are."""
    if not kind:
        return 0
    saved = sum(w.numel() * (w.element_size() - QUANTIZED_BYTES[kind]) for w in _frozen(model))
    return int(saved)


def largest_frozen(model: nn.Module) -> int:
    """Weights of the largest frozen linear layer, which a product dequantizes whole."""
    return max((w.numel() for w in _frozen(model)), default=0)


def _frozen(model: nn.Module) -> list[torch.Tensor]:
    return [
        module.weight
        for layer in decoder_layers(model)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad and "lora_" not in name
    ]


def _known(attention: str | None) -> str | None:
    """Flash attention keeps what sdpa keeps: no scores; its package need not be here to plan."""
    return "sdpa" if attention and "flash" in attention else attention
