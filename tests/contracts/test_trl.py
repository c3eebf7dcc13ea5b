"""The names of TRL and transformers that PPOTrainer leans on and that are not public.

Where one of these fails after an upgrade, read the change upstream before changing the number.
"""

import inspect
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from transformers import PreTrainedModel, Trainer
from trl import RLOOConfig, RLOOTrainer
from trl.models import utils as model_utils
from trl.trainer import utils

SIGNATURES = {
    (RLOOTrainer, "_prepare_inputs"): ["self", "generation_batch"],
    (RLOOTrainer, "_generate_and_score_completions"): ["self", "inputs"],
    (RLOOTrainer, "_compute_loss"): ["self", "model", "inputs"],
    (RLOOTrainer, "_get_train_sampler"): ["self", "dataset"],
    (RLOOTrainer, "_generate"): ["self", "prompts"],
    (RLOOTrainer, "_calculate_rewards"): [
        *("self", "inputs", "prompts", "completions", "completion_ids_list")
    ],
    (RLOOTrainer, "training_step"): ["self", "model", "inputs", "num_items_in_batch"],
    (RLOOTrainer, "compute_loss"): [
        *("self", "model", "inputs", "return_outputs", "num_items_in_batch")
    ],
    (RLOOTrainer, "log"): ["self", "logs", "start_time"],
    (RLOOTrainer, "__init__"): [
        *("self", "model", "reward_funcs", "args", "train_dataset", "eval_dataset"),
        *("processing_class", "reward_processing_classes", "callbacks", "optimizers"),
        *("quantization_config", "peft_config"),
    ],
    (Trainer, "_load_from_checkpoint"): ["self", "resume_from_checkpoint", "model"],
    (Trainer, "_load_best_model"): ["self"],
    (Trainer, "_issue_warnings_after_load"): ["self", "load_result"],
    (Trainer, "save_model"): ["self", "output_dir", "_internal_call"],
    (Trainer, "create_optimizer"): ["self", "model"],
}

ATTRIBUTES = [
    *("_step", "_metrics", "_tokenizer", "eos_token_ids", "ref_model", "reward_funcs"),
    *("reward_func_names", "reward_weights", "aux_loss_enabled", "router_aux_loss_coef"),
    *("chat_template_kwargs", "max_completion_length", "num_generations", "use_vllm"),
    "vllm_generation",
]


def test_the_version_is_the_one_that_was_read() -> None:
    assert Version("1.16") <= Version(version("trl")) < Version("1.17")


@pytest.mark.parametrize("owner_and_name", SIGNATURES, ids=lambda pair: pair[1])
def test_signature(owner_and_name: tuple[type, str]) -> None:
    owner, name = owner_and_name
    parameters = list(inspect.signature(inspect.unwrap(vars(owner)[name])).parameters)
    assert parameters == SIGNATURES[owner_and_name]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attribute_is_set_in_init(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(RLOOTrainer.__init__)


def test_the_loss_is_scaled_where_the_trainer_says_so() -> None:
    assert RLOOTrainer.loss_is_scaled_for_ga is False
    assert "self.loss_is_scaled_for_ga" in inspect.getsource(Trainer.training_step)


def test_config_checks_the_number_of_generations_last() -> None:
    """PPOConfig passes over this one check, so nothing may come after it."""
    source = inspect.getsource(RLOOConfig.__post_init__).rstrip()
    last = source[source.rindex("        if self.num_generations < 2:") :]
    assert "RLOO requires at least 2 generations" in last
    assert not [line for line in last.splitlines()[1:] if line.startswith("        if ")]


def test_the_fused_head_takes_shifted_labels_and_gives_logps_and_entropy() -> None:
    parameters = inspect.signature(utils.add_fused_lm_head).parameters
    assert list(parameters) == ["model", "temperature", "cast_lm_head_to_fp32", "outputs"]
    source = inspect.getsource(utils.add_fused_lm_head)
    assert 'backbone_attr = "base_model"' in source
    assert "hidden_states = backbone_outputs.last_hidden_state\n" in source
    assert {"log_probs", "entropy", "aux_loss"} <= set(
        utils.FusedCausalLMOutput.__dataclass_fields__
    )
    assert 'outputs=("log_probs", "entropy")' in inspect.getsource(RLOOTrainer.__init__)


def test_helpers_of_trl() -> None:
    assert list(inspect.signature(utils.use_adapter).parameters) == ["model", "adapter_name"]
    assert utils.get_callable_name(len) == "len"
    sampler = utils.RepeatSampler([1, 2, 3], mini_repeat_count=1, seed=3)
    assert isinstance(sampler.generator, torch.Generator)
    assert (sampler.shuffle, sampler.seed) == (True, 3)


def test_vllm_sends_what_one_method_yields() -> None:
    from trl.generation.vllm_generation import VLLMGeneration

    names = list(inspect.signature(VLLMGeneration._iter_named_params).parameters)
    assert names == ["self"]
    assert "self._iter_named_params()" in inspect.getsource(VLLMGeneration.sync_weights)


def test_transformers_leaves_named_keys_out_of_what_it_saves() -> None:
    assert "_keys_to_ignore_on_save" in inspect.getsource(PreTrainedModel.save_pretrained)
    assert "set(self._keys_to_ignore_on_save or [])" in inspect.getsource(PreTrainedModel.post_init)


def test_gradient_checkpointing_goes_through_one_function_of_each_layer() -> None:
    from transformers import modeling_layers

    assert "self._gradient_checkpointing_func(partial(" in inspect.getsource(modeling_layers)
    assert "if self.gradient_checkpointing and self.training" in inspect.getsource(modeling_layers)


def test_trl_says_old_words() -> None:
    """Once it does not, `alignment.models.renamed` and pyproject.toml need no filter for it."""
    assert "model.is_gradient_checkpointing" in inspect.getsource(model_utils)


def test_peft_saves_the_adapters_that_it_has_a_config_of() -> None:
    from peft import PeftModel

    source = inspect.getsource(PeftModel.save_pretrained)
    assert "selected_adapters = list(self.peft_config.keys())" in source
