"""What PPOTrainer relies on in TRL and transformers and no documentation promises.

Private names are in `private_names.py`. If a test fails after an upgrade, read the change upstream
before changing the test.
"""

import inspect
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from transformers import Trainer
from trl import RLOOConfig, RLOOTrainer
from trl.models import utils as model_utils
from trl.trainer import utils

SIGNATURES: dict[tuple[type, str], str] = {
    (RLOOTrainer, "training_step"): "self model inputs num_items_in_batch",
    (RLOOTrainer, "compute_loss"): "self model inputs return_outputs num_items_in_batch",
    (RLOOTrainer, "log"): "self logs start_time",
    (RLOOTrainer, "__init__"): (
        "self model reward_funcs args train_dataset eval_dataset processing_class "
        "reward_processing_classes callbacks optimizers quantization_config peft_config"
    ),
    (Trainer, "create_optimizer"): "self model",
}

ATTRIBUTES = [
    "eos_token_ids",
    "ref_model",
    "reward_funcs",
    "reward_func_names",
    "reward_weights",
    "aux_loss_enabled",
    "router_aux_loss_coef",
    "chat_template_kwargs",
    "max_completion_length",
    "num_generations",
    "use_vllm",
    "vllm_generation",
]


def test_the_version_is_the_one_that_was_read() -> None:
    assert Version("1.16") <= Version(version("trl")) < Version("1.17")


@pytest.mark.parametrize("owner_and_name", SIGNATURES, ids=lambda pair: pair[1])
def test_signature(owner_and_name: tuple[type, str]) -> None:
    owner, name = owner_and_name
    parameters = list(inspect.signature(inspect.unwrap(vars(owner)[name])).parameters)
    assert parameters == SIGNATURES[owner_and_name].split()


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


def test_vllm_gets_the_named_parameters_of_the_model_while_it_generates() -> None:
    """PPO takes the critic off the model for that time."""
    from trl.generation.vllm_generation import VLLMGeneration

    names = inspect.getsource(VLLMGeneration._iter_named_params)
    assert "for name, param in model.named_parameters():" in names
    assert "if model.prefix in name:" in names  # adapters, the critic's too, are left out
    assert "self._iter_named_params()" in inspect.getsource(VLLMGeneration.sync_weights)
    source = inspect.getsource(RLOOTrainer)
    assert source.count("sync_weights()") == 1
    assert "sync_weights()" in inspect.getsource(RLOOTrainer._generate_single_turn)


def test_a_load_reports_missing_weights_to_a_hook_that_may_change_them() -> None:
    model = torch.nn.ModuleDict({"critic": torch.nn.Linear(1, 1), "policy": torch.nn.Linear(1, 1)})
    model.register_load_state_dict_post_hook(lambda module, found: found.missing_keys.clear())
    found = model.load_state_dict({}, strict=True)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert "load_result = model.load_state_dict(state_dict, False)" in inspect.getsource(
        Trainer._load_from_checkpoint
    )


def test_trl_says_old_words() -> None:
    """Once it does not, `alignment.models.renamed` and pyproject.toml need no filter for it."""
    assert "model.is_gradient_checkpointing" in inspect.getsource(model_utils)


def test_peft_saves_the_adapters_that_it_has_a_config_of() -> None:
    from peft import PeftModel

    source = inspect.getsource(PeftModel.save_pretrained)
    assert "selected_adapters = list(self.peft_config.keys())" in source
