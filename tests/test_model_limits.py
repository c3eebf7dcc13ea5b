"""What a model can read, found before it is loaded: positions, embeddings, padding, end tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from alignment.data.counts import count_rows, refuse
from alignment.errors import ConfigError, DataError
from alignment.evaluate.generation import encode_prompts
from alignment.models.classifier import new_classifier
from alignment.models.folders import load_padding_tokenizer, load_tokenizer
from alignment.models.limits import max_positions, positions_in, read_limits
from alignment.models.merge import merge
from alignment.ppo.rewards import load_reward_model
from alignment.registry import STAGES

# peft reads a property that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({}, None),
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 2048}, 2048),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4}}, 16384),
        # Qwen2.5 with YaRN, as its model card says
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                    "type": "yarn",
                },
            },
            131072,
        ),
        # Llama 3.1 gives the number after scaling
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {
                    "factor": 8.0,
                    "original_max_position_embeddings": 8192,
                    "rope_type": "llama3",
                },
            },
            131072,
        ),
    ],
)
def test_positions_are_read_by_every_name(config: dict[str, Any], positions: int | None) -> None:
    assert positions_in(config) == positions


def test_no_causal_model_calls_its_positions_otherwise() -> None:
    names = {}
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        renamed = CONFIG_MAPPING[model_type].attribute_map.get("max_position_embeddings")
        if renamed is not None:
            names[model_type] = renamed
    assert names["gpt2"] == "n_positions"
    assert set(names.values()) - {"context_length"} == {
        "n_positions",
        "max_seq_len",
        "model_max_length",
    }
    assert [key for key, name in names.items() if name == "context_length"] == ["rwkv"]  # recurrent


@pytest.mark.parametrize(
    ("limit", "splits", "beyond"),
    [(None, False, 2), (30, False, 1), (20, False, 0), (20, True, 0), (30, True, 3)],
)
def test_rows_beyond_the_positions_are_counted_after_the_cut(
    limit: int | None, splits: bool, beyond: int
) -> None:
    counts = count_rows(
        np.zeros(3, np.uint8),
        np.array([5, 25, 40], np.int32),
        limit=limit,
        positions=20 if limit != 30 or splits else 25,
        splits=splits,
    )
    assert counts.beyond_positions == beyond


def test_rows_beyond_the_positions_are_refused_with_both_numbers() -> None:
    lengths = np.array([5, 1211], np.int32)
    counts = count_rows(np.zeros(2, np.uint8), lengths, limit=4096, positions=512)
    values = {"on_bad_row": "drop"}
    with pytest.raises(DataError) as caught:
        refuse(STAGES["sft"], "train", counts, values=values, positions=512)
    assert str(caught.value) == (
        "train data: 1 of 2 rows have more tokens than the model has positions (512); the longest "
        "has 1,211\n  set max_length: 512, or scale the model's positions in its config.json"
    )


def tokenizer_without(tiny_dir: Path, folder: Path, *names: str) -> Path:
    AutoTokenizer.from_pretrained(tiny_dir).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: config[key] for key in config if key not in names}))
    return folder


def test_a_tokenizer_that_can_pad_nothing_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    folder = tokenizer_without(tiny_dir, tmp_path / "neither", "pad_token", "eos_token")
    with pytest.raises(ConfigError, match="neither: the tokenizer has no pad token and no end"):
        load_padding_tokenizer(str(folder))
    folder = tokenizer_without(tiny_dir, tmp_path / "eos", "pad_token")
    assert load_padding_tokenizer(str(folder)).pad_token == "<|im_end|>"


@pytest.fixture
def enlarged(tiny_dir: Path, tmp_path: Path) -> Path:
    """A reward model whose tokenizer has a token more than it has embeddings."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=1)
    model.save_pretrained(tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path / "rm")
    return tmp_path / "rm"


def test_a_token_without_embedding_is_named_wherever_a_model_reads(enlarged: Path) -> None:
    tokenizer = load_tokenizer(str(enlarged))
    positions, count = read_limits(str(enlarged), tokens=len(tokenizer))
    assert positions == 512
    assert count is not None
    assert count == len(tokenizer) - 1
    told = f"the tokenizer makes '<tool>' token {count}, and the model has {count} embeddings"
    with pytest.raises(DataError, match=f"prompt 2: model 'x': {told}"):
        encode_prompts(tokenizer, ["a", "a <tool>"], name="x", path=str(enlarged))
    reward = load_reward_model(str(enlarged), policy_tokenizer=tokenizer)
    with pytest.raises(DataError, match=f"reward rm: {told}"):
        reward(prompts=["a", "b"], completions=["c", "d <tool>"])


@pytest.mark.parametrize("task", ["SEQ_CLS", "CAUSAL_LM"])
def test_a_merged_model_pads_and_ends_as_the_tokenizer_it_was_trained_with(
    task: str, tiny_dir: Path, tmp_path: Path
) -> None:
    base = tokenizer_without(tiny_dir, tmp_path / "base", "pad_token")
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    model.config.pad_token_id, model.config.eos_token_id = None, 0
    model.generation_config = GenerationConfig(eos_token_id=0)
    model.save_pretrained(base)
    config: dict[str, Any] = {"r": 2, "task_type": task}
    if task == "SEQ_CLS":
        adapted = get_peft_model(
            new_classifier(str(base)), LoraConfig(**config, modules_to_save=["score"])
        )
    else:
        whole = AutoModelForCausalLM.from_pretrained(base)
        adapted = get_peft_model(whole, LoraConfig(**config))
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer = load_tokenizer(str(base))
    tokenizer.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "whole")
    found = AutoConfig.from_pretrained(tmp_path / "whole")
    assert found.eos_token_id == [tokenizer.eos_token_id, 0]
    if task == "CAUSAL_LM":
        generation = GenerationConfig.from_pretrained(tmp_path / "whole")
        assert generation.eos_token_id == [tokenizer.eos_token_id, 0]
        return
    assert found.pad_token_id == tokenizer.pad_token_id
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    texts = ["a", "a longer text"]
    batch = whole(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    alone = [whole(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    assert torch.allclose(batch, torch.stack(alone), atol=1e-5)


def test_the_positions_of_gpt2_are_read_from_its_config(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "gpt2", "n_positions": 64}')
    assert max_positions(AutoConfig.from_pretrained(tmp_path)) == 64


def test_answers_to_other_prompts_are_cut_to_the_positions() -> None:
    """KTO's KL estimate joins a long prompt with a long answer of another row."""
    from alignment.training.trainers import MaskedAnswers

    rows = [
        {"prompt_ids": [1] * 6, "completion_ids": [2], "completion_mask": [1], "label": True},
        {"prompt_ids": [3], "completion_ids": [4] * 6, "completion_mask": [1] * 6, "label": False},
    ]
    collator = MaskedAnswers(pad_token_id=0, max_length=None, positions=8)
    batch = collator([dict(row) for row in rows])
    assert batch["KL_input_ids"].tolist() == [[1] * 6 + [4] * 2, [3, 2] + [0] * 6]
    assert batch["KL_completion_mask"].sum(dim=1).tolist() == [2, 1]
