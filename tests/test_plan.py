"""`align plan`: shapes without storage count as real ones do; the peak is what a run takes."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from support import REPOSITORY, make_tokenizer, write_jsonl
from torch import nn
from torch._subclasses import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from alignment.cli import main
from alignment.data.arrow import LENGTH, read_column
from alignment.data.rows import prepare_stage, read_start
from alignment.errors import AlignError, ConfigError
from alignment.plan.command import plan as plan_command
from alignment.plan.devices import parse_counts, parse_memory
from alignment.plan.launch import read_launch
from alignment.plan.ledger import Ledger
from alignment.plan.memory import Memory, estimate, shard
from alignment.plan.models import build_models, with_depth
from alignment.plan.optimizers import optimizer_need
from alignment.plan.recipe import read_stage
from alignment.plan.request import read_request
from alignment.plan.rows import measure_rows
from alignment.plan.steps import read_memory, run_step
from alignment.plan.work import Batch, Device, Launch, RewardModel, Work
from alignment.registry import STAGES
from alignment.settings.resolve import resolve

SHAPE = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
LLAMA = LlamaConfig(**SHAPE)
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LLAMA,
    "llama-tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gpt2": GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=256),
}


def work(stage: str = "sft", config: PreTrainedConfig = LLAMA, **keys: Any) -> Work:
    facts = STAGES[stage]
    known: dict[str, Any] = {
        "form": "full", "device": "cpu", "checkpointing": False, "adapter": lora(16),
        "batch": Batch(4, 48, 1, 32, 4) if facts.samples else Batch(4, 32),
        "reference": facts.has_reference({"beta": 0.1}),
    }  # fmt: skip
    return Work(facts, config, **{**known, **keys})


def lora(rank: int, **keys: Any) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=32, lora_dropout=0.05, **keys)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")  # peft, of GPT-2
@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_as_in_the_real_model(name: str) -> None:
    config = CONFIGS[name]
    real = AutoModelForCausalLM.from_config(config)
    assert build_models(work(config=config)).parameters == real.num_parameters()
    adapted = get_peft_model(real, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=None))
    trained, _ = adapted.get_nb_trainable_parameters()
    models = build_models(work(config=config, form="lora", adapter=lora(4)))
    assert sum(p.numel() for p in models.trained()) == trained
    assert models.parameters == real.num_parameters() - trained


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("form", ["full", "lora", "qlora"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_stage_has_an_estimate(stage: str, form: str, device: Device) -> None:
    quantized = "4bit" if form == "qlora" else ""
    found = estimate(
        work(stage, form=form, device=device, quantized=quantized, autocast=device == "gpu")
    )
    assert found.activations > 0
    assert found.total <= sum(
        (found.weights, found.gradients, found.optimizer, found.activations, found.reference)
    ) + sum((found.critic, found.rewards, found.context))
    facts = STAGES[stage]
    assert (found.kv_cache > 0) == facts.samples
    assert (found.reference > 0) == (facts.reference != "never" and form == "full")
    assert (found.critic > 0) == facts.critic


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gpt2"])
def test_other_architectures_have_an_estimate(name: str) -> None:
    with_checkpoints = estimate(work(config=CONFIGS[name], checkpointing=True))
    assert 0 < with_checkpoints.activations <= estimate(work(config=CONFIGS[name])).activations


@pytest.mark.parametrize("keys", [{}, {"checkpointing": True}, {"form": "lora"}], ids=str)
def test_two_depths_give_any_other(keys: dict[str, Any]) -> None:
    deep = work("dpo", with_depth(LLAMA, 7), **keys)
    from_two, whole = read_memory(deep).segments, run_step(deep).segments
    assert max(m.live for m in from_two.values()) == max(m.live for m in whole.values())
    assert from_two == {name: whole[name] for name in from_two}


def test_ledger_counts_what_autograd_keeps() -> None:
    layer = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 2, bias=False))
    with FakeTensorMode():
        layer = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 2, bias=False))
        with Ledger() as ledger:
            ledger.leave_out(layer)
            x = torch.empty(4, 8)
            out = layer(x)
            # x, the ReLU's output (its input was freed, and is not kept) and the result
            assert ledger.live == 4 * (4 * 8 + 4 * 16 + 4 * 2)
            out.sum().backward()
            del out
            assert ledger.gradients == 4 * (8 * 16 + 16 * 2)
            assert ledger.live == ledger.gradients + 4 * 4 * 8


def test_parts_against_numbers_worked_out_by_hand() -> None:
    found = estimate(work("ppo", rewards=(RewardModel(LLAMA, "float32"),), critic="model"))
    attention = 32 * 32 * 2 + 32 * 16 * 2  # q and o; k and v of two heads of 8
    layer = attention + 3 * 32 * 64 + 2 * 32
    trunk = 320 * 32 + 2 * layer + 32
    head = 320 * 32
    buffers = 2 * 4 * 4  # rotary frequencies, kept twice
    assert found.weights == 4 * (trunk + head) + buffers
    assert found.trained == trunk + head + trunk + 33
    assert found.gradients == 4 * found.trained
    assert found.optimizer == 8 * found.trained
    assert found.reference == found.weights
    assert found.rewards == 4 * (trunk + 32) + buffers
    assert found.critic == 4 * (trunk + 33) + buffers
    assert found.kv_cache == 2 * 2 * 4 * 2 * 8 * 48 * 4  # K and V, layers, rows, heads, width, T


def test_eager_attention_keeps_its_scores() -> None:
    more = {
        length: _live(work(batch=Batch(2, length), attention="eager"))
        - _live(work(batch=Batch(2, length), attention="sdpa"))
        for length in (64, 128)
    }
    scores = 2 * 2 * 4 * 128 * 128 * 4  # layers, rows, heads, T, T, float32
    assert 0.7 * scores < more[128] < 2 * scores
    assert more[128] > 3 * more[64]  # they grow with the square


def _live(what: Work) -> int:
    return read_memory(what).segments["training: after the layers"].live


def test_quantized_weights_take_half_a_byte() -> None:
    everywhere = lora(16, target_modules="all-linear")
    plain, quantized = (
        estimate(work(form=form, quantized=kind, dtype="bfloat16", adapter=everywhere))
        for form, kind in (("lora", ""), ("qlora", "4bit"))
    )
    linear = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)
    adapter_savings = 2 * plain.trained  # bfloat16 in place of float32
    assert plain.weights - quantized.weights == pytest.approx(
        linear * (2 - 0.5625), abs=adapter_savings
    )


def test_a_shared_reward_model_costs_its_adapter() -> None:
    shared = RewardModel(LLAMA, "float32", lora(4))
    alone = replace(shared, adapter=None)
    small, large = (estimate(work("ppo", form="lora", rewards=(r,))) for r in (shared, alone))
    assert small.rewards < large.rewards / 5


def test_accumulation_keeps_gradients_through_the_forward() -> None:
    once, twice = (estimate(work(batch=Batch(4, 32, n))) for n in (1, 2))
    assert twice.total > once.total


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.integers(1, 6), length=st.integers(2, 64), stage=st.sampled_from(["sft", "dpo"]))
def test_more_tokens_take_no_less(rows: int, length: int, stage: str) -> None:
    base = estimate(work(stage, batch=Batch(rows, length)))
    assert estimate(work(stage, batch=Batch(rows + 1, length))).total >= base.total
    assert estimate(work(stage, batch=Batch(rows, length + 1))).total >= base.total
    checkpointed = estimate(work(stage, batch=Batch(rows, length), checkpointing=True))
    assert checkpointed.total <= base.total


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rank=st.integers(1, 12))
def test_rank_costs_and_lora_holds_less_than_full(rank: int) -> None:
    small, large = (estimate(work(form="lora", adapter=lora(r))) for r in (rank, rank + 1))
    full = estimate(work())
    assert small.total <= large.total
    assert large.gradients + large.optimizer < full.gradients + full.optimizer


@pytest.fixture(scope="module")
def deep() -> tuple[Work, Memory]:
    what = work(config=with_depth(LLAMA, 12))
    return what, estimate(what)


@given(gpus=st.integers(2, 64))
def test_sharding_over_more_gpus_takes_less_of_each(deep: tuple[Work, Memory], gpus: int) -> None:
    what, alone = deep
    ddp = shard(alone, what, gpus=gpus, sharding="ddp")
    assert ddp.total == alone.total + alone.gradients  # its buckets
    for sharding in ("zero2", "zero3"):
        fewer, more = (shard(alone, what, gpus=n, sharding=sharding) for n in (gpus, gpus * 2))
        assert more.total < fewer.total < ddp.total
    assert (
        shard(alone, what, gpus=gpus, sharding="zero3").weights * gpus
        <= shard(alone, what, gpus=gpus, sharding="zero2").weights
    )


def test_sharing_out_against_numbers_worked_out_by_hand() -> None:
    what = work(device="gpu", autocast=True, dtype="bfloat16")
    alone = estimate(what)
    n = alone.trained
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    outside = 2 * 320 * 32 + 32
    two, three = (shard(alone, what, gpus=4, sharding=kind) for kind in ("zero2", "zero3"))
    assert (two.weights, two.gradients, two.optimizer) == (alone.weights, 2 * n // 4, 12 * n // 4)
    assert three.weights == alone.weights // 4
    buffers = 2 * 4 * 4
    assert three.context - two.context == 2 * (outside + 2 * layer) + buffers
    step = next(live for name, live, _ in alone.phases if name == "optimizer step")
    assert step == 2 * n  # the gradients; alone the fused step adds nothing
    # ZeRO-2 adds a flat copy of the gradients and one in float32
    held = two.weights + two.optimizer + two.context
    assert two.total >= held + (2 + 6) * n // 4 - 1


def test_a_recipes_launch_is_what_has_to_fit(model: Path, tmp_path: Path) -> None:
    words = ["--stage=sft", *argv(model, tmp_path), "--json", "--memory=24GB"]
    (alone,) = json.loads(run(*words))["stages"]
    assert alone["gpus"] == []
    (found,) = json.loads(run(*words, "--accelerate", "zero3", "--nproc=4"))["stages"]
    assert found["launch"] == {"gpus": 4, "sharding": "zero3"}
    (ours,) = (
        row["total"]
        for row in found["gpus"]
        if (row["form"], row["sharding"], row["gpus"]) == ("full", "zero3", 4)
    )
    assert found["total"] == ours
    assert found["total"] != found["forms"]["full"]["total"]


@pytest.mark.parametrize(
    ("words", "launch", "strategy"),
    [
        ([], Launch(1, "ddp"), "ddp"),
        (["--nproc", "2"], Launch(2, "ddp"), "ddp"),
        (["--accelerate=zero2", "--nproc=2"], Launch(2, "zero2"), "zero2"),
        (["--accelerate=fsdp1", "--nproc=4"], Launch(4, "zero3"), "fsdp1"),
        (["--accelerate=fsdp2", "--nproc=4"], Launch(4, "zero3"), "fsdp2"),
        (["--accelerate=zero3"], Launch(8, "zero3"), "zero3"),  # what the preset says itself
        (["--accelerate=zero1", "--nproc=2"], Launch(2, None), "zero2"),
    ],
)
def test_launches(words: list[str], launch: Launch, strategy: str) -> None:
    left = ["a.yaml", "--max_steps=1"]
    assert read_launch(["a.yaml", *words, "--max_steps=1"]) == (launch, strategy, left)


def test_optimizers_against_numbers_worked_out_by_hand() -> None:
    matrix, vector = torch.empty(100, 50), torch.empty(64)
    both = [matrix, vector]
    assert optimizer_need("adamw_torch_fused", both).states == 8 * 5064
    assert optimizer_need("adamw_torch", both).moment == 4 * 5064
    assert optimizer_need("adamw_torch_fused", [matrix.bfloat16()]).states == 4 * 5000
    assert optimizer_need("adamw_8bit", both).states == int(2 * (5000 * (1 + 4 / 256) + 64 * 4))
    assert optimizer_need("adafactor", both).states == 4 * (100 + 50 + 64)
    assert optimizer_need("sgd", both).states == 0


def test_adamw_states_are_those_of_torch() -> None:
    weight = nn.Parameter(torch.ones(6, 5))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.sum().backward()
    optimizer.step()
    held = sum(x.nbytes for x in optimizer.state[weight].values() if x.numel() > 1)
    assert optimizer_need("adamw_torch_fused", [weight]).states == held


# From a recipe


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    make_tokenizer().save_pretrained(folder)
    LLAMA.save_pretrained(folder)
    return folder


def argv(model: Path, tmp_path: Path, **keys: Any) -> list[str]:
    data = tmp_path / "rows.jsonl"
    if not data.exists():
        rows = [{"prompt": "Say hello.", "completion": "hello " * n} for n in (2, 20, 5)]
        write_jsonl(data, rows)
    given = {"model_name_or_path": model, "train_data": data, "per_device_train_batch_size": 2}
    return [f"--{key}={value}" for key, value in (given | keys).items()]


def run(*words: Any) -> str:
    done = CliRunner().invoke(plan_command, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_only_the_config_is_read_of_a_model(model: Path, tmp_path: Path) -> None:
    assert not list(model.glob("*.safetensors"))
    out = run("--stage", "sft", *argv(model, tmp_path), "--device", "cpu")
    real = AutoModelForCausalLM.from_config(LLAMA).num_parameters()
    assert f"{real:,} parameters" in out
    assert "the longest of 3 rows" in out
    assert "full*" in out
    for part in ("weights", "gradients", "optimizer", "activations", "peak", "time"):
        assert part in out
    wide = run("--stage", "ppo", *argv(model, tmp_path), "--gpus=1,2,4,8", "--memory=1GiB")
    assert max(map(len, [line for line in wide.splitlines() if str(model) not in line])) <= 80


def test_a_critic_that_is_an_adapter_is_reported_without_the_full_form(
    model: Path, tmp_path: Path
) -> None:
    words = ["--stage=ppo", *argv(model, tmp_path, critic="lora"), "--device=cpu"]
    (found,) = json.loads(run(*words, "--use_peft", "--json"))["stages"]
    assert (found["form"], set(found["forms"])) == ("lora", {"lora"})
    assert found["forms"]["lora"]["critic"] > 0
    with pytest.raises(ConfigError, match="critic: lora shares the frozen base of a LoRA policy"):
        run(*words)


def test_an_adapter_is_planned_as_the_lora_that_it_is(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    whole = AutoModelForCausalLM.from_config(LLAMA)
    # without its embeddings, for which older PEFT looks up a base that has no name yet
    get_peft_model(whole, LoraConfig(r=4)).save_pretrained(adapter, save_embedding_layers=False)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(model)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    words = ["--stage=sft", *argv(adapter, tmp_path), "--device=cpu", "--json"]
    (found,) = json.loads(run(*words))["stages"]
    assert found["form"] == "lora"
    assert found["total"] == found["forms"]["lora"]["total"] < found["forms"]["full"]["total"]


def test_json_has_every_form_and_every_number_of_gpus(model: Path, tmp_path: Path) -> None:
    keys = {"use_peft": "true", "max_length": 24, "max_steps": 7}
    words = ["--stage=sft", *argv(model, tmp_path, **keys), "--gpus=1,4", "--tflops=10"]
    (found,) = json.loads(run(*words, "--memory=24GB", "--json"))["stages"]
    assert (found["form"], found["device"], found["fits"]) == ("lora", "gpu", True)
    assert (found["rows"], found["length"]) == (2, 24)  # the longest row is cut
    assert set(found["forms"]) == {"full", "lora", "qlora"}
    assert found["total"] == found["forms"]["lora"]["total"]
    assert {(row["form"], row["gpus"], row["sharding"]) for row in found["gpus"]} == {
        (form, n, kind)
        for form in ("full", "lora", "qlora")
        for n in (1, 4)
        for kind in ("ddp", "zero2", "zero3")
    }
    one = found["time"][0]
    assert one["steps"] == 7
    assert one["seconds"] == pytest.approx(7 * one["flops"] / 10e12)


def test_packages_of_another_machine_may_be_missing_on_this(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop without bitsandbytes plans a QLoRA run; it could not start it."""
    monkeypatch.setattr("alignment.settings.rules._is_installed", {"bitsandbytes": False}.get)
    keys = argv(model, tmp_path, use_peft="true", load_in_4bit="true", optim="paged_adamw_8bit")
    with pytest.raises(ConfigError, match="bitsandbytes is not installed"):
        resolve("sft", keys)
    (found,) = json.loads(run("--stage=sft", *keys, "--memory=24GB", "--json"))["stages"]
    assert (found["form"], found["device"]) == ("qlora", "gpu")


def test_what_does_not_fit_is_reported_with_what_would(model: Path, tmp_path: Path) -> None:
    words = ["--stage=sft", *argv(model, tmp_path, activation_checkpointing="false")]
    (found,) = json.loads(run(*words, "--memory=600MiB", "--json"))["stages"]
    assert found["fits"] is False
    assert found["changes"]
    assert all(change["total"] < found["total"] for change in found["changes"])
    assert "--activation_checkpointing true" in found["changes"][0]["keys"]
    again = [*words, "--memory=600MiB", "--json", "--activation_checkpointing=true"]
    (changed,) = json.loads(run(*again))["stages"]
    assert changed["total"] == found["changes"][0]["total"]  # computed, and true


def test_a_pipeline_knows_what_earlier_stages_leave(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    write_jsonl(data, [{"prompt": "Hi", "chosen": "hello there", "rejected": "no"}] * 3)
    lora = "use_peft: true\nlora_r: 4\nper_device_train_batch_size: 2\n"
    head = f"model_name_or_path: {model}\n"
    (tmp_path / "sft.yaml").write_text(f"{head}{lora}train_data: {tmp_path}/rows.jsonl\n")
    argv(model, tmp_path)
    (tmp_path / "rm.yaml").write_text(f"{lora}train_data: {data}\n")
    (tmp_path / "ppo.yaml").write_text(f"{lora}train_data: {data}\nmax_completion_length: 16\n")
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        f"output_dir: {tmp_path}/runs\nstages:\n  sft: {{config: sft.yaml}}\n"
        "  rm: {config: rm.yaml, needs: {model: sft}}\n"
        "  ppo: {config: ppo.yaml, needs: {model: sft, reward_model: rm}}\n"
    )
    sft, rm, ppo = json.loads(run(file, "--json", "--device=cpu", "--set", "rm.max_length=64"))[
        "stages"
    ]
    assert [found["form"] for found in (sft, rm, ppo)] == ["lora", "lora", "lora"]
    assert rm["rows"] == 4  # chosen and rejected
    # the reward model is an adapter on the policy's base; the reference a copy of its adapter
    assert 0 < ppo["forms"]["lora"]["rewards"] < ppo["forms"]["lora"]["weights"] / 4
    assert 0 < ppo["forms"]["lora"]["reference"] < ppo["forms"]["lora"]["weights"] / 4


def write_rows(file: Path, stage: str, *lengths: int) -> None:
    """Rows of a stage whose longest side has so many words."""
    rows = []
    for words in lengths:
        text = "hello " * words
        rows.append(
            {
                "text": {"text": text},
                "sft": {"prompt": "Hi", "completion": text},
                "preference": {"prompt": "Hi", "chosen": text, "rejected": "bye"},
                "unpaired": {"prompt": "Hi", "completion": text, "label": words > 2},
                "prompt": {"prompt": text},
            }[STAGES[stage].kind]
        )
    write_jsonl(file, rows)


@pytest.mark.parametrize("stage", STAGES)
def test_lengths_are_those_of_the_rows_that_the_trainer_gets(
    stage: str, model: Path, tmp_path: Path
) -> None:
    facts = STAGES[stage]
    write_rows(tmp_path / "rows.jsonl", stage, 2, 20, 5)
    values = resolve(stage, argv(model, tmp_path, **{facts.length_key: 100})).values
    found = measure_rows(facts, values, read_start(values))
    prepared = prepare_stage(facts, values)
    lengths = read_column(prepared.by_role["train"].entry.rows, LENGTH)
    assert (found.rows, found.longest) == (3, max(lengths))
    assert found.mean == pytest.approx(lengths.mean())
    assert found.prompt == (max(lengths) if facts.samples else 0)
    assert found.start is not None
    assert found.start.tokenizer.key == prepared.renderer.tokenizer.key


@pytest.mark.parametrize("stage", [name for name, facts in STAGES.items() if not facts.samples])
def test_rows_over_the_limit_are_cut_or_left_out(stage: str, model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", stage, 1, 40, 2)
    values = resolve(stage, argv(model, tmp_path, max_length=30)).values
    found = measure_rows(STAGES[stage], values, read_start(values))
    if STAGES[stage].long_rows == "cut":
        assert (found.rows, found.longest) == (3, 30)
    else:
        assert found.rows == 2
        assert found.longest < 30


def test_data_that_is_not_there_counts_as_full_rows(model: Path, tmp_path: Path) -> None:
    values = resolve("sft", argv(model, tmp_path, train_data="later.jsonl")).values
    found = read_stage("sft", "sft", values).lengths
    assert (found.rows, found.longest) == (None, 1024)
    assert "not there" in found.source


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sft.yaml"], "sft.yaml: no such file"),
        (["--stage", "stf"], "did you mean 'sft'?"),
        (["--stage", "sft", "--lerning_rate", "1"], "did you mean 'learning_rate'?"),
        (["--stage", "sft", "--memry", "1"], "did you mean 'memory'?"),
        (["--stage", "sft", "--memory", "much"], "--memory: expected a size, got 'much'"),
        (["--stage", "sft", "--gpus", "0"], "--gpus: expected counts, got '0'"),
        (["--stage", "sft", "--gpus", "2", "--device", "cpu"], "--gpus: 2 on a CPU"),
        (["--stage", "sft", "--set", "a.b=1"], "--set: only for pipelines"),
        (["--stage", "sft"], "model_name_or_path: no model is named"),
        (["--stage", "sft", "--model_name_or_path", "./no"], "no such folder, and no hub model"),
        ([], "no recipe: which stage is it?"),
        (["--stage", "sft", "--memory"], "--memory requires an argument"),
        (["--stage", "sft", "--tflops", "-1"], "--tflops: -1.0 is not in the range x>0"),
        (["--stage", "sft", "--device", "tpu"], "--device: tpu is not one of cpu, gpu"),
        (["--stage", "sft", "--accelerate", "zero9"], "--accelerate: zero9: no such file"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_mistakes_are_reported_in_two_lines(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AlignError) as caught:
        CliRunner().invoke(main, ["plan", *words], catch_exceptions=False)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_sizes_and_counts_of_gpus() -> None:
    assert parse_memory("24GB") == 24 * 10**9
    assert parse_memory("80 GiB") == parse_memory("80") == 80 * 2**30
    assert parse_counts("8,1,2,2") == [1, 2, 8]


@pytest.mark.parametrize("words", [["--help"], ["recipes/demo/dpo.yaml", "--memory", "24GB"]])
def test_help_and_mistakes_import_no_torch(words: list[str]) -> None:
    program = (
        f"import sys; sys.argv = ['align', 'plan', *{words}]\n"
        "from alignment.cli import entry_point\n"
        "try: entry_point()\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules or 'trl' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.endswith("False\n")
    assert "--memory" in done.stdout or "no model is named" in done.stderr


@pytest.fixture(scope="module")
def measure() -> Any:
    """The benchmark that compares estimates with runs."""
    path = REPOSITORY / "benchmarks" / "plan" / "measure.py"
    spec = importlib.util.spec_from_file_location("measure", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny(measure: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the measured runs."""
    folder: Path = measure.make_tiny(tmp_path_factory.mktemp("measured") / "models" / "tiny")
    return folder


RUNS = {
    row["case"]: row["measured"]
    for row in json.loads((REPOSITORY / "benchmarks/plan/results/cpu.json").read_text())
}


@pytest.mark.parametrize("case", [case for case in RUNS if case.startswith("tiny")])
def test_an_estimate_is_within_5_percent_of_the_run_in_the_benchmark(
    case: str, measure: Any, tiny: Path
) -> None:
    size, stage, flags = measure.CASES[case]
    words = measure.command(tiny, size, stage, flags, tiny.parents[1])
    (plan,) = read_request(words, stage=stage, overrides=(), options=())
    found = estimate(plan.work(plan.form, "cpu")).total
    assert 0.95 <= found / RUNS[case] <= 1.05 + 0.005  # the table has two digits


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are read from Linux's /proc"
)
@pytest.mark.parametrize("case", ["tiny sft full"])
def test_the_estimate_is_what_a_run_takes(
    case: str, measure: Any, tiny: Path, tmp_path: Path
) -> None:
    size, stage, flags = measure.CASES[case]
    # the second step is the first with gradients, optimizer states and activations at once
    flags = (*flags, "--max_steps=2", "--preflight=false")
    words = measure.command(tiny, size, stage, flags, tmp_path)
    found = measure.compare(stage, words, allocator=True)
    assert found["measured"] > 400 * 2**20  # so that what libraries do is small in comparison
    assert 0.8 <= found["estimate"] / found["measured"] <= 1.2
