"""Causal language models to train, to generate with and to merge: whole ones and LoRA adapters.

A stage trains the adapter that an earlier stage wrote further and adds no second one: a chain of
stages needs a single base, on disk and in memory.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    set_seed,
)
from trl import ModelConfig, get_peft_config, get_quantization_config

from alignment.errors import ConfigError
from alignment.models.classifier import load_adapter, new_classifier
from alignment.models.folders import (
    DEFAULT_REVISION,
    absolute_place,
    adapter_base,
    load_config,
    load_tokenizer,
    weights_place,
)
from alignment.models.skeleton import check_weights
from alignment.models.targets import check_targets
from alignment.runs import TOKENIZER_CONFIG

_COARSE = (torch.bfloat16, torch.float16)


def load_causal_model(
    path: str,
    *,
    revision: str = DEFAULT_REVISION,
    is_trainable: bool = False,
    **options: Any,
) -> Any:
    """Load a causal language model; an adapter comes on its base, not merged.

    Args:
        path: A folder or a hub name.
        revision: Of the whole model.
        is_trainable: Whether the weights of an adapter are to be trained.
        **options: For transformers' `from_pretrained`.
    """
    place = weights_place(path, revision)
    trusts = bool(options.get("trust_remote_code"))
    check_weights(
        AutoModelForCausalLM, place.path, revision=place.revision, trust_remote_code=trusts
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        place.path, revision=place.revision, **options
    )
    if adapter_base(path) is None:
        return model
    _embed_added_tokens(model, path, trust_remote_code=trusts)
    adapted = load_adapter(model, path, is_trainable=is_trainable)
    adapted.peft_config["default"].base_model_name_or_path = absolute_place(place.path)
    return adapted


def _embed_added_tokens(base: Any, path: str, *, trust_remote_code: bool) -> None:
    """Give a base embeddings for the tokens that the stage which wrote an adapter added."""
    if (Path(path) / TOKENIZER_CONFIG).is_file():
        size = len(load_tokenizer(path, trust_remote_code=trust_remote_code))
        if size > base.get_input_embeddings().weight.size(0):
            base.resize_token_embeddings(size)


def load_policy(model: ModelConfig, args: Any) -> dict[str, Any]:
    """The model that a stage trains, as arguments of a TRL trainer.

    A whole model is passed by name, so that the trainer loads it and its reference in the same way;
    an adapter is loaded here, trainable.

    Raises:
        ConfigError: The recipe's LoRA keys are not those of the adapter.
    """
    path = str(model.model_name_or_path)
    options = _loading_options(model, args)
    if adapter_base(path):
        _check_lora_keys(path, model)
        return {"model": load_causal_model(path, is_trainable=True, **options)}
    skeleton = _check_whole_model(AutoModelForCausalLM, model, args)
    args.model_init_kwargs = options
    return {"model": absolute_place(path), "peft_config": _new_adapter(model, skeleton)}


def load_reward_policy(model: ModelConfig, args: Any) -> dict[str, Any]:
    """The same for a reward model: one score on top, which LoRA trains and saves whole.

    Raises:
        ConfigError: The recipe's LoRA keys are not those of the adapter.
    """
    path = str(model.model_name_or_path)
    model.lora_task_type = "SEQ_CLS"
    model.lora_modules_to_save = [*(model.lora_modules_to_save or []), "score"]
    options = _loading_options(model, args)
    if not adapter_base(path):
        kind = AutoModelForSequenceClassification
        skeleton = _check_whole_model(kind, model, args, new_head=True, num_labels=1)
        args.model_init_kwargs = options
        return {"model": absolute_place(path), "peft_config": _new_adapter(model, skeleton)}
    config = _check_lora_keys(path, model)
    place = weights_place(path, options.pop("revision"))
    set_seed(args.seed)  # the score head is random
    base: Any = new_classifier(place.path, revision=place.revision, **options)
    _embed_added_tokens(base, path, trust_remote_code=bool(args.trust_remote_code))
    config = copy.deepcopy(config)
    config.base_model_name_or_path = absolute_place(place.path)
    config.task_type, config.inference_mode = "SEQ_CLS", False
    config.modules_to_save = ["score"]
    policy = get_peft_model(base, config)
    # PEFT asks for every key, and the earlier adapter has no score head.
    weights = get_peft_model_state_dict(policy) | load_peft_weights(path)
    set_peft_model_state_dict(policy, weights)
    return {"model": policy}


def _check_whole_model(
    kind: Any, model: ModelConfig, args: Any, **how: Any
) -> PreTrainedModel | None:
    """Check the files of the whole model that TRL is to load; returns it without numbers.

    Raises:
        ConfigError: They are no model, or not a whole one.
    """
    path, revision = str(model.model_name_or_path), model.model_revision
    trusts = bool(args.trust_remote_code)
    skeleton = check_weights(kind, path, revision=revision, trust_remote_code=trusts, **how)
    if not load_config(path, revision=revision, trust_remote_code=trusts).architectures:
        raise ConfigError(
            f"model_name_or_path: {path}: its config names no architectures",
            'add "architectures": ["Qwen3ForCausalLM"], or the class that it is, to config.json',
        )
    return skeleton


def train_in_float32(policy: Any, path: str) -> None:
    """Keep what is trained beside a frozen base in float32, as PEFT keeps plain LoRA weights.

    TRL rounds the adapter on a quantized base to bfloat16, and modules that are trained whole have
    the dtype of the base. In 16 bits most small updates would be lost.

    Args:
        policy: An adapter on its base; a whole model is left as it is.
        path: What the policy was loaded from; an adapter there had more digits.
    """
    if not isinstance(policy, PeftModel):
        return
    coarse = [p for p in policy.parameters() if p.requires_grad and p.dtype in _COARSE]
    for parameter in coarse:
        parameter.data = parameter.data.float()
    if coarse and adapter_base(path) is not None:
        weights = get_peft_model_state_dict(policy) | load_peft_weights(path)
        set_peft_model_state_dict(policy, weights)


def _new_adapter(model: ModelConfig, skeleton: PreTrainedModel | None) -> LoraConfig | None:
    """The adapter that a recipe asks for; it names the revision of its base, if there is one.

    Raises:
        ConfigError: It names a module that the model has not.
    """
    config: LoraConfig | None = get_peft_config(model)
    if config is None:
        return None
    if model.model_revision != DEFAULT_REVISION:
        config.revision = model.model_revision
    if skeleton is not None:
        check_targets(skeleton, config)
    return config


def _check_lora_keys(path: str, model: ModelConfig) -> Any:
    """Check that what the recipe says of LoRA is what the adapter is; returns PEFT's config."""
    config: Any = PeftConfig.from_pretrained(path)
    if not model.use_peft:
        raise ConfigError(
            f"model_name_or_path: {path} is a LoRA adapter, but use_peft is false",
            "set use_peft: true to train it further, or `align merge` it into a whole model first",
        )
    if (config.r, config.lora_alpha) != (model.lora_r, model.lora_alpha):
        raise ConfigError(
            f"lora_r, lora_alpha: {model.lora_r}, {model.lora_alpha}, but the adapter in {path} "
            f"has {config.r}, {config.lora_alpha}",
            "give the adapter's own values: it is trained further, not replaced",
        )
    default = vars(ModelConfig())
    for key, has in (
        ("lora_dropout", config.lora_dropout),
        ("use_rslora", config.use_rslora),
        ("use_dora", config.use_dora),
    ):
        wanted = vars(model)[key]
        if wanted not in (default[key], has):
            raise ConfigError(
                f"{key}: {wanted}, but the adapter in {path} has {has}",
                "leave it out: the adapter is trained further, not replaced",
            )
    return config


def _loading_options(model: ModelConfig, args: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "trust_remote_code": args.trust_remote_code,
    }
    quantization = get_quantization_config(model)
    if quantization is not None:
        options["quantization_config"] = quantization
    return options | (args.model_init_kwargs or {})
