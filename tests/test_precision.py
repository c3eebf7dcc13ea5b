"""The precision of a run: one answer for settings, PPO's config and plans; weights that move."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import write_jsonl

from alignment.errors import ConfigError
from alignment.ppo.config import PPOConfig
from alignment.registry import STAGES
from alignment.settings import precision, rules
from alignment.settings.precision import loaded_dtype, uses_bf16
from alignment.settings.resolve import build, resolve
from alignment.training.run import run_stage


@pytest.mark.parametrize(
    ("values", "with_gpu", "without"),
    [
        ({}, True, False),
        ({"bf16": None, "fp16": False, "use_cpu": False}, True, False),
        ({"fp16": True}, False, False),
        ({"use_cpu": True}, False, False),
        ({"bf16": True}, True, True),
        ({"bf16": False}, False, False),
        ({"bf16": True, "use_cpu": True}, True, True),
        ({"use_peft": True}, True, False),
        ({"use_peft": True, "dtype": "float32"}, False, False),
        ({"use_peft": True, "dtype": "bfloat16"}, True, True),
        ({"use_peft": True, "dtype": "bfloat16", "use_cpu": True}, True, True),
        ({"use_peft": True, "dtype": "bfloat16", "bf16": False}, False, False),
        ({"use_peft": False, "dtype": "float32"}, True, False),
    ],
    ids=str,
)
def test_bf16_is_used_as_asked_for_else_if_a_gpu_can(
    values: dict[str, Any], with_gpu: bool, without: bool
) -> None:
    assert (uses_bf16(values, gpu=True), uses_bf16(values, gpu=False)) == (with_gpu, without)


@pytest.mark.parametrize(
    ("is_there", "can", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_this_machine_is_asked(
    is_there: bool, can: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: can)
    assert uses_bf16({}) is expected


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # TRL
def test_every_config_asks_that_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def has_none() -> bool:
        asked.append(1)
        return False

    monkeypatch.setattr(precision, "_gpu_has_bf16", has_none)
    for stage in STAGES:
        assert build(resolve(stage, []))[-1].bf16 is False
    assert PPOConfig(output_dir="out", report_to="none").bf16 is False
    assert len(asked) == len(STAGES) + 1
    assert build(resolve("sft", ["--bf16", "false"]))[-1].bf16 is False
    assert len(asked) == len(STAGES) + 1


STOCHASTIC = ["--optim", "adamw_torch_8bit", "--optim_args", "bf16_stochastic_round=True"]


@pytest.mark.parametrize(
    ("flags", "with_gpu", "without"),
    [
        ([], "float32", "float32"),
        (["--dtype", "auto"], "float32", "float32"),
        (["--bf16"], "float32", "float32"),
        (["--dtype", "bfloat16", *STOCHASTIC], "bfloat16", "bfloat16"),
        (STOCHASTIC, "float32", "float32"),
        (["--use_peft"], "bfloat16", "float32"),
        (["--use_peft", "--bf16"], "bfloat16", "bfloat16"),
        (["--use_peft", "--no_bf16"], "float32", "float32"),
        (["--use_peft", "--dtype", "auto"], "auto", "auto"),
        (["--use_peft", "--dtype", "bfloat16"], "bfloat16", "bfloat16"),
        (["--use_peft", "--load_in_4bit", "--dtype", "auto"], "bfloat16", "float32"),
    ],
    ids=str,
)
def test_whole_models_keep_float32_and_bases_the_precision_of_the_run(
    flags: list[str], with_gpu: str, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "_is_installed", lambda package: True)
    values = resolve("sft", flags).values
    adapted = values["use_peft"]
    found = [loaded_dtype(values, adapted=adapted, gpu=gpu) for gpu in (True, False)]
    assert found == [with_gpu, without]


@pytest.mark.parametrize(
    ("stage", "flags", "message"),
    [
        ("sft", "--dtype bfloat16", "dtype: bfloat16 rounds most updates of a whole model"),
        ("rm", "--dtype float16", "dtype: float16 rounds most updates of a whole model"),
        ("dpo", "--dtype bfloat16 --optim adamw_torch_8bit", "rounds most updates"),
        ("ppo", "--dtype float16 " + " ".join(STOCHASTIC), "rounds most updates"),
        ("kto", "--use_peft --dtype float32 --bf16", "float32, but bf16 trains the adapter"),
        ("sft", '--model_init_kwargs {"torch_dtype":"bfloat16"}', "dtype and quantization are"),
        ("sft", "--attn_implementation flash_attention_2 --no_bf16", "computes in 16 bits only"),
        ("sft", "--attn_implementation flash_attention_2 --use_cpu", "computes in 16 bits only"),
        ("ppo", "--use_peft --dtype float32 --attn_implementation flash_attention_2", "16 bits"),
        ("rm", "--use_peft --dtype bfloat16 --no_bf16", "the score head is trained in float32"),
        (
            "sft",
            "--use_peft --dtype bfloat16 --no_bf16 --lora_modules_to_save lm_head",
            "cannot multiply without bf16",
        ),
    ],
)
def test_a_precision_that_learns_nothing_is_refused(
    stage: str, flags: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "_is_installed", lambda package: True)
    with pytest.raises(ConfigError, match=message):
        resolve(stage, flags.split())


def moved(before: Path, after: Path) -> float:
    """Share of the numbers in two files of weights that differ."""
    start, end = load_file(before), load_file(after)
    changed = sum(int((start[key] != end[key]).sum()) for key in start)
    return changed / sum(x.numel() for x in start.values())


def test_nearly_every_weight_moves_at_a_small_learning_rate(tmp_path: Path, tiny_dir: Path) -> None:
    """With bfloat16 weights under 1 % would: their steps are 2^-9 of a weight, 1e-4 of most."""
    rows = [{"prompt": "say one", "completion": "one two three"}] * 4
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    words = ["--model_name_or_path", str(tiny_dir), "--train_data", str(data), "--bf16"]
    words += ["--learning_rate", "1e-6", "--max_steps", "1", "--use_cpu", "--report_to", "none"]
    words += ["--loss_on", "all", "--lr_scheduler_type", "constant", "--disable_tqdm", "true"]
    run_stage("sft", [*words, "--output_dir", str(tmp_path / "out")])
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert {x.dtype for x in after.values()} == {torch.float32}
    layers = {key for key in after if ".layers." in key and "norm" not in key}
    share = moved(tiny_dir / "model.safetensors", tmp_path / "out" / "model.safetensors")
    assert share > 0.7  # the embeddings of tokens that no row has stay
    start = load_file(tiny_dir / "model.safetensors")
    assert all((start[key] != after[key]).float().mean() > 0.99 for key in layers)
    assert all((start[key].bfloat16() != after[key].bfloat16()).float().mean() < 0.05
               for key in layers)  # fmt: skip
