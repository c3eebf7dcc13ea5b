"""LoRA on a base in 4 or 8 bits, two steps of each stage on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kills import ROWS
from safetensors.torch import load_file
from support import write_jsonl

from alignment.ppo.critic import critic_from_policy
from alignment.registry import STAGES
from alignment.settings.resolve import build, resolve
from alignment.training.run import run_stage

pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

QUICK = [
    "--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "--report_to", "none",
    "--disable_tqdm", "true", "--preflight", "false", "--use_peft", "--logging_steps", "1",
    "--learning_rate", "1e-6", "--lr_scheduler_type", "constant", "--lora_r", "4",
    "--lora_target_modules", "all-linear",
]  # fmt: skip
SAMPLING = ["--max_completion_length", "4", "--reward_model", f"{__name__}:reward"]
CASES = [
    *[(stage, bits, ()) for stage in ("sft", "rm", "dpo", "kto", "ppo") for bits in (4, 8)],
    ("ppo", 4, ("--critic", "model")),
    ("ppo", 8, ("--critic", "model")),
    ("ppo", 4, ("--critic", "lora")),
]


@pytest.fixture(scope="module")
def model(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in sizes that bitsandbytes can pack for a CPU: multiples of its block, 64."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig.from_pretrained(
        tiny_dir, hidden_size=64, intermediate_size=64, head_dim=16
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_dir).save_pretrained(folder)
    return folder


def reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(completion[0]["content"])) for completion in completions]


def start(stage: str, folder: Path, model: Path, *more: str) -> Path:
    data = write_jsonl(folder / f"{stage}.jsonl", ROWS[STAGES[stage].kind])
    sampling = SAMPLING if STAGES[stage].samples else []
    out = folder / stage
    words = ["--model_name_or_path", str(model), "--train_data", str(data), *QUICK, *sampling]
    run_stage(stage, [*words, "--output_dir", str(out), *more])
    return out


@pytest.mark.parametrize(("stage", "bits", "more"), CASES)
def test_a_stage_trains_an_adapter_in_float32(
    stage: str, bits: int, more: tuple[str, ...], tmp_path: Path, model: Path
) -> None:
    out = start(stage, tmp_path, model, f"--load_in_{bits}bit", *more)
    weights = load_file(out / "adapter_model.safetensors")
    assert {x.dtype for x in weights.values()} == {torch.float32}
    ups = [x for name, x in weights.items() if "lora_B" in name]
    assert all(0 < x.abs().max() < 1e-5 for x in ups)  # they start at 0 and move at 1e-6


def test_an_adapter_goes_on_with_all_its_digits(tmp_path: Path, model: Path) -> None:
    first = start("sft", tmp_path, model, "--load_in_4bit")
    second = start("dpo", tmp_path, first, "--load_in_4bit", "--learning_rate", "0")
    before, after = (load_file(x / "adapter_model.safetensors") for x in (first, second))
    assert all((before[name] == after[name]).all() for name in before)


def test_the_critic_starts_from_the_weights_before_they_were_quantized(
    tmp_path: Path, model: Path
) -> None:
    from alignment.models.policy import load_causal_model, load_policy

    adapter = start("sft", tmp_path, model, "--load_in_8bit", "--learning_rate", "0.1")
    flags = ["--model_name_or_path", str(adapter), "--use_peft", "--load_in_4bit", "--lora_r", "4"]
    _, _, named, args = build(resolve("sft", [*flags, "--use_cpu"]))
    policy = load_policy(named, args)["model"]
    critic = critic_from_policy(policy, dtype=torch.float32)
    whole = load_causal_model(str(adapter), dtype=torch.float32).merge_and_unload()
    expected = whole.base_model.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in critic.trunk.state_dict().items())
    assert all(x.requires_grad for x in critic.parameters())
