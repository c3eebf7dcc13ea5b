"""What is wrong with a model's files or a LoRA recipe, found on a model without numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment.errors import ConfigError
from alignment.models.classifier import load_classifier
from alignment.models.policy import load_causal_model
from alignment.models.skeleton import check_weights
from alignment.models.targets import check_targets
from alignment.settings.late_faults import blame

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "model"))


def edit_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def cut_weights(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def drop_a_layer(folder: Path) -> None:
    weights = {k: v for k, v in load_file(folder / WEIGHTS).items() if ".layers.1." not in k}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut_weights, "its weights cannot be read: Error while deserializing header"),
        (drop_a_layer, "9 weights are missing, the first of them model.layers.1."),
        (lambda folder: edit_config(folder, hidden_size=256), "its weights do not fit its config"),
        (lambda folder: edit_config(folder, model_type="qwen99"), "has model type `qwen99`"),
    ],
)
def test_a_damaged_model_is_one_line_and_never_filled_with_random_numbers(
    damage: Callable[[Path], None], told: str, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(model)
    with pytest.raises(ConfigError) as caught:
        load_causal_model(str(model))
    assert str(caught.value).startswith(f"{model}: ")
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert capfd.readouterr() == ("", "")


def test_only_a_new_head_may_be_missing(tiny_dir: Path) -> None:
    kind = AutoModelForSequenceClassification
    assert check_weights(kind, str(tiny_dir), new_head=True, num_labels=1) is not None
    with pytest.raises(ConfigError, match=r"1 weights are missing, .* score\.weight"):
        check_weights(kind, str(tiny_dir), num_labels=1)


def test_a_reward_model_without_its_head_is_refused(model: Path) -> None:
    edit_config(model, architectures=["LlamaForSequenceClassification"], num_labels=1)
    with pytest.raises(ConfigError, match=r"first of them score\.weight"):
        load_classifier(str(model))


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ({"target_modules": ["q_prj"]}, "lora_target_modules: the model has no module 'q_prj'"),
        ({"target_modules": ["q_proj", "v_prj"]}, "the model has no module 'v_prj'"),
        ({"target_modules": "layers.*q_prj"}, "the model has no module 'layers.*q_prj'"),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["scoore"]},
            "lora_modules_to_save: the model has no module 'scoore'",
        ),
    ],
)
def test_a_module_that_a_model_has_not_is_named(
    adapter: dict[str, Any], told: str, tiny_dir: Path
) -> None:
    skeleton = check_weights(AutoModelForCausalLM, str(tiny_dir))
    assert skeleton is not None
    with pytest.raises(ConfigError) as caught:
        check_targets(skeleton, LoraConfig(task_type="CAUSAL_LM", **adapter))
    assert told in str(caught.value)


@pytest.mark.parametrize("targets", [["q_proj"], ["self_attn.q_proj"], "all-linear", ".*q_proj"])
def test_modules_are_found_as_peft_finds_them(targets: Any, tiny_dir: Path) -> None:
    skeleton = check_weights(AutoModelForCausalLM, str(tiny_dir))
    assert skeleton is not None
    check_targets(skeleton, LoraConfig(task_type="CAUSAL_LM", target_modules=targets))


def raised_by(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        call()
    return caught.value


def test_an_error_of_a_library_names_the_key_it_is_about(tiny_dir: Path) -> None:
    load = AutoModelForCausalLM.from_pretrained
    error = raised_by(lambda: load(tiny_dir, foo=1))
    found = blame(error, {"beta": 1, "model_init_kwargs": {"foo": 1}}, {"model_init_kwargs": "a:3"})
    assert found is not None
    assert found.message.startswith("a:3: model_init_kwargs: LlamaForCausalLM.__init__() got an")
    error = raised_by(lambda: load(tiny_dir, dtype="foo"))
    found = blame(error, {"dtype": "foo"}, {"dtype": "--dtype"})
    assert found is None or found.message.startswith("dtype: ")


def test_a_bug_keeps_its_traceback(tiny_dir: Path) -> None:
    given = {"lora_target_modules": "x", "beta": 1}
    assert blame(raised_by(lambda: int("lora_target_modules")), given, {}) is None  # not a library
    load = AutoModelForCausalLM.from_pretrained
    error = raised_by(lambda: load(tiny_dir, foo=1))
    assert blame(error, given, {}) is None  # no key is named
