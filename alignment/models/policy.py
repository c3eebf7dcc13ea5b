"""The policy of a stage, whole models and LoRA adapters alike.

An adapter that an earlier stage wrote is trained further, not stacked upon: one adapter over the
one base that everything started from, so that a chain of stages needs a single base on disk and in
memory.
"""

import copy
from typing import Any

from trl import ModelConfig, get_peft_config, get_quantization_config

from alignment.errors import ConfigError
from alignment.models.folders import adapter_base


def load_policy(model: ModelConfig, args: Any) -> dict[str, Any]:
    """The causal language model, as the arguments that a TRL trainer takes.

    A whole model is handed over by name, so that the trainer loads it (and its reference) the same
    way; an adapter is loaded here, trainable.
    """
    path = str(model.model_name_or_path)
    init = _init_kwargs(model, args)
    if adapter_base(path):
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(_base_of(path, model), **init)
        return {"model": PeftModel.from_pretrained(base, path, is_trainable=True)}
    args.model_init_kwargs = init
    return {"model": path, "peft_config": get_peft_config(model)}


def load_reward_policy(model: ModelConfig, args: Any) -> dict[str, Any]:
    """The same for a reward model: one score on top, which LoRA trains and saves whole."""
    path = str(model.model_name_or_path)
    model.lora_task_type = "SEQ_CLS"
    model.lora_modules_to_save = [*(model.lora_modules_to_save or []), "score"]
    if not adapter_base(path):
        args.model_init_kwargs = _init_kwargs(model, args)
        return {"model": path, "peft_config": get_peft_config(model)}

    from peft import (
        PeftConfig,
        get_peft_model,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )
    from transformers import AutoModelForSequenceClassification, set_seed
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    set_seed(args.seed)  # the score head is random
    with suppress_seqcls_warning():
        base = AutoModelForSequenceClassification.from_pretrained(
            _base_of(path, model), num_labels=1, **_init_kwargs(model, args)
        )
    config: Any = copy.deepcopy(PeftConfig.from_pretrained(path))
    config.task_type, config.inference_mode = "SEQ_CLS", False
    config.modules_to_save = ["score"]
    policy = get_peft_model(base, config)
    # peft asks for every key, and the earlier adapter has no score head
    weights = get_peft_model_state_dict(policy) | load_peft_weights(path)
    set_peft_model_state_dict(policy, weights)
    return {"model": policy}


def _base_of(path: str, model: ModelConfig) -> str:
    """The base under an adapter; what the recipe says of LoRA must be what the adapter is."""
    from peft import PeftConfig

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
    return str(config.base_model_name_or_path)


def _init_kwargs(model: ModelConfig, args: Any) -> dict[str, Any]:
    init: dict[str, Any] = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "trust_remote_code": args.trust_remote_code,
    }
    quantization = get_quantization_config(model)
    if quantization is not None:
        init["quantization_config"] = quantization
    return init | (args.model_init_kwargs or {})
