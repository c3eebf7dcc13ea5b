"""LoRA adapters on one frozen base: of policy, critic and reward model; the reference has none."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignment.models.policy import load_causal_model
from alignment.runs import ADAPTER_WEIGHTS

#: The names of reward adapters on the policy's base start with it.
BORROWED = "reward_"


@contextmanager
def kept_gradients(model: nn.Module) -> Iterator[None]:
    """Restore every `requires_grad`: PEFT freezes the adapters that are not active."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


@contextmanager
def active_adapter(model: PeftModel, name: str) -> Iterator[None]:
    """Compute with one adapter, then activate the one before."""
    before = model.active_adapter
    with kept_gradients(model):
        model.set_adapter(name)
        try:
            yield
        finally:
            model.set_adapter(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Compute in eval mode (no dropout), then put every module back into its mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # train() on the model would also turn on parts that were in eval mode before
        for module in training:
            module.training = True


@contextmanager
def keeping_activations(model: nn.Module) -> Iterator[None]:
    """Turn activation checkpointing off for a pass without gradients, where it is on.

    The methods of transformers would turn it on again in every layer.
    """
    layers: list[Any] = [m for m in model.modules() if vars(m).get("gradient_checkpointing")]
    for layer in layers:
        layer.gradient_checkpointing = False
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True


@contextmanager
def recomputed_with(model: PeftModel, name: str) -> Iterator[None]:
    """Let activation checkpointing recompute a forward with the adapter that it ran with.

    Layers are recomputed in backward, when the policy's adapter is active again.
    """
    # Modules that checkpoint are of several classes; all have the function as an attribute.
    layers: list[Any] = [
        module for module in model.modules() if "_gradient_checkpointing_func" in vars(module)
    ]
    before = [layer._gradient_checkpointing_func for layer in layers]
    recompute = partial(
        checkpoint,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), active_adapter(model, name)),
    )
    for layer in layers:
        layer._gradient_checkpointing_func = recompute
    try:
        yield
    finally:
        for layer, function in zip(layers, before, strict=True):
            layer._gradient_checkpointing_func = function


@contextmanager
def unsaved_adapters(model: nn.Module) -> Iterator[None]:
    """Leave adapters of reward models out of what PEFT saves, which is what it has a config of."""
    if not isinstance(model, PeftModel):
        yield
        return
    borrowed = [name for name in model.peft_config if name.startswith(BORROWED)]
    configs = {name: model.peft_config.pop(name) for name in borrowed}
    try:
        yield
    finally:
        model.peft_config.update(configs)


def add_critic_adapter(model: PeftModel, name: str) -> None:
    """Add a trainable adapter of the policy's shape; at first the base computes as without it."""
    config = deepcopy(model.peft_config[model.active_adapter])
    config.modules_to_save = None
    with kept_gradients(model):
        model.add_adapter(name, config)
    for parameter_name, parameter in model.named_parameters():
        if name in parameter_name.split("."):
            parameter.requires_grad_(True)


def read_unquantized(
    policy: PeftModel, *, dtype: torch.dtype, trust_remote_code: bool
) -> PeftModel:
    """Read the base of a policy again, not quantized, and put a copy of its adapter on it."""
    config = deepcopy(policy.peft_config["default"])
    quantized = policy.get_base_model()
    base = load_causal_model(
        quantized.config.name_or_path,
        revision=config.revision or "main",
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    base.resize_token_embeddings(quantized.get_input_embeddings().weight.size(0))
    whole = get_peft_model(base, config)
    set_peft_model_state_dict(whole, get_peft_model_state_dict(policy, adapter_name="default"))
    return whole


def add_saved_adapter(model: PeftModel, folder: Path, name: str) -> dict[str, Tensor]:
    """Add a saved adapter, frozen, and return the weights of its other modules (score head)."""
    config = PeftConfig.from_pretrained(folder)
    config.modules_to_save = None
    config.task_type = None
    config.inference_mode = True
    weights = load_file(folder / ADAPTER_WEIGHTS)
    others = {key: x for key, x in weights.items() if ".lora_" not in key}
    with kept_gradients(model):
        model.add_adapter(name, config)
        found = set_peft_model_state_dict(
            model, {key: x for key, x in weights.items() if key not in others}, adapter_name=name
        )
    # PEFT only lists them, and the reward would be computed without a part of its adapter
    if found.unexpected_keys:
        raise ValueError(f"{folder}: {found.unexpected_keys[0]} fits no module of the policy")
    for parameter_name, parameter in model.named_parameters():
        if name in parameter_name.split("."):
            parameter.requires_grad_(False)
    return others


def disable_dropout(model: nn.Module) -> None:
    """Set dropout to 0; TRL did so before the critic's layers were added."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
