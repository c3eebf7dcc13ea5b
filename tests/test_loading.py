"""One loader each for tokenizers, causal models and classifiers, whole or adapters."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig

from alignment.errors import ConfigError
from alignment.models.classifier import check_classifier, load_classifier, new_classifier
from alignment.models.folders import (
    Place,
    adapter_base,
    check_reward_model,
    has_chat_template,
    load_config,
    load_tokenizer,
    read_adapter,
    tokenizer_place,
    weights_place,
)
from alignment.models.limits import max_positions
from alignment.models.merge import merge
from alignment.models.policy import load_causal_model, load_policy, load_reward_policy
from alignment.runs.files import ADAPTER_CONFIG, CHAT_TEMPLATE

# peft reads a property that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.tensor([[5, 6, 7, 8]])  # (1, T)


def save_adapter(folder: Path, base: Path, **config: Any) -> Any:
    """A LoRA adapter with random weights on a base, and the model that it was made on."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **config}
    adapted = get_peft_model(model, LoraConfig(init_lora_weights=False, **config))
    adapted.save_pretrained(folder)
    return adapted.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_an_adapter_comes_on_its_base_with_its_base_s_tokenizer(
    tiny_dir: Path, tmp_path: Path
) -> None:
    adapted = save_adapter(tmp_path, tiny_dir)
    adapter = read_adapter(str(tmp_path))
    assert adapter == (str(tiny_dir), None, "CAUSAL_LM")
    loaded = load_causal_model(str(tmp_path), dtype=torch.float32)
    assert isinstance(loaded, PeftModel)
    assert torch.equal(logits(loaded.eval()), logits(adapted))
    assert not any(p.requires_grad for p in loaded.parameters())
    trained = load_causal_model(str(tmp_path), is_trainable=True)
    assert {n for n, p in trained.named_parameters() if p.requires_grad} == {
        n for n, _ in trained.named_parameters() if "lora_" in n
    }
    assert load_tokenizer(str(tmp_path)).get_vocab() == load_tokenizer(str(tiny_dir)).get_vocab()
    assert has_chat_template(str(tmp_path))
    assert max_positions(load_config(str(tmp_path))) == 512


def test_an_adapter_with_added_tokens_is_loaded_on_a_larger_base(
    tiny_dir: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    size = len(tokenizer)
    tokenizer.add_tokens(["<new>", "<other>"])
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    model.resize_token_embeddings(size + 2)
    adapted = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM")).eval()
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path / "adapter")
    loaded = load_causal_model(str(tmp_path / "adapter"), dtype=torch.float32).eval()
    assert loaded.get_input_embeddings().weight.size(0) == size + 2
    assert torch.equal(logits(loaded), logits(adapted))


def test_a_base_is_loaded_at_the_revision_that_its_adapter_names(tmp_path: Path) -> None:
    folder = str(tmp_path)
    file = tmp_path / ADAPTER_CONFIG
    assert weights_place("owner/name") == ("owner/name", "main")
    assert weights_place("owner/name", "v2") == ("owner/name", "v2")
    file.write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    assert weights_place(folder) == tokenizer_place(folder) == Place("owner/base", "main")
    assert weights_place(folder, "v2") == tokenizer_place(folder, "v2") == ("owner/base", "v2")
    edit(file, revision="v1")
    assert weights_place(folder, "v2") == tokenizer_place(folder, "v2") == ("owner/base", "v1")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert tokenizer_place(folder, "v2") == (folder, "v2")


def test_a_new_adapter_names_the_revision_of_its_base(tiny_dir: Path, tmp_path: Path) -> None:
    for given, recorded in (("main", None), ("v1", "v1")):
        args = SimpleNamespace(trust_remote_code=False, model_init_kwargs=None)
        keys = ModelConfig(str(tiny_dir), model_revision=given, use_peft=True, lora_r=4)
        arguments = load_policy(keys, args)
        assert arguments["model"] == str(tiny_dir)
        assert args.model_init_kwargs["revision"] == given
        model = AutoModelForCausalLM.from_pretrained(tiny_dir)
        get_peft_model(model, arguments["peft_config"]).save_pretrained(tmp_path / given)
        assert read_adapter(str(tmp_path / given)) == (str(tiny_dir), recorded, "CAUSAL_LM")


@pytest.mark.parametrize("load", [load_policy, load_reward_policy])
def test_an_adapter_is_trained_only_with_its_own_lora_keys(
    load: Any, tiny_dir: Path, tmp_path: Path
) -> None:
    save_adapter(tmp_path, tiny_dir)
    args = SimpleNamespace(trust_remote_code=False, model_init_kwargs=None, seed=0)
    with pytest.raises(ConfigError, match="is a LoRA adapter, but use_peft is false"):
        load(ModelConfig(str(tmp_path)), args)
    with pytest.raises(ConfigError, match="has 4, 8"):
        load(ModelConfig(str(tmp_path), use_peft=True, lora_r=8), args)
    own = {"use_peft": True, "lora_r": 4, "lora_alpha": 8}
    with pytest.raises(ConfigError, match=r"lora_dropout: 0.3, but the adapter in .* has 0.0"):
        load(ModelConfig(str(tmp_path), **own, lora_dropout=0.3), args)
    keys = ModelConfig(str(tmp_path), use_peft=True, lora_r=4, lora_alpha=8, dtype="float32")
    assert isinstance(load(keys, args)["model"], PeftModel)


def test_a_classifier_has_one_label_and_its_head(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rm .*: LlamaForCausalLM is not a sequence classifier"):
        check_classifier(str(tiny_dir), role="rm")
    torch.manual_seed(1)
    whole = new_classifier(str(tiny_dir)).eval()
    whole.save_pretrained(tmp_path / "whole")
    assert torch.equal(logits(load_classifier(str(tmp_path / "whole"))), logits(whole))
    config = LoraConfig(r=4, task_type="SEQ_CLS", init_lora_weights=False)
    adapted = get_peft_model(new_classifier(str(tiny_dir)), config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    merged = load_classifier(str(tmp_path / "adapter"))
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(logits(merged), logits(adapted))
    assert check_classifier(str(tmp_path / "adapter")) is None


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_a_merged_model_answers_as_its_adapter_did(
    task: str, tiny_dir: Path, tmp_path: Path
) -> None:
    if task == "CAUSAL_LM":
        adapted = save_adapter(tmp_path / "adapter", tiny_dir)
    else:
        torch.manual_seed(3)
        config = LoraConfig(r=4, task_type=task, init_lora_weights=False)
        adapted = get_peft_model(new_classifier(str(tiny_dir)), config).eval()
        adapted.save_pretrained(tmp_path / "adapter")
    assert merge(tmp_path / "adapter", tmp_path / "whole") < 1e-3
    load = load_causal_model if task == "CAUSAL_LM" else load_classifier
    assert adapter_base(str(tmp_path / "whole")) is None
    torch.testing.assert_close(logits(load(str(tmp_path / "whole")).eval()), logits(adapted))
    assert has_chat_template(str(tmp_path / "whole")), "the base's tokenizer came along"
    with pytest.raises(ConfigError, match="not empty"):
        merge(tmp_path / "adapter", tmp_path / "whole")
    with pytest.raises(ConfigError, match="no adapter here"):
        merge(tiny_dir, tmp_path / "other")


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == tokenizer.eos_token
    assert load_tokenizer(str(tiny_dir)).pad_token == "<|pad|>"
    (tmp_path / CHAT_TEMPLATE).unlink()
    assert not has_chat_template(str(tmp_path))
    with pytest.raises(ConfigError, match=r"empty: no tokenizer: "):
        load_tokenizer(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("name", "kind"), [("rules:polite", "a function"), ("http://host/score", "a URL")]
)
def test_where_only_a_model_scores_another_reward_is_named(name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"reward_model: {name}: {kind}, and only a reward model"):
        check_reward_model(name)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_broken_adapter_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / ADAPTER_CONFIG).write_text(text)
    with pytest.raises(ConfigError, match="not an adapter's config"):
        adapter_base(str(tmp_path))
