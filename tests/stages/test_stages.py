"""Every stage through its entry point on the tiny model: it trains, writes, resumes, hands over."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from kills import ROWS, WORDS
from support import write_jsonl

from alignment.errors import AlignError
from alignment.registry import STAGES
from alignment.runs.record import load_run
from alignment.training.run import run_stage

QUICK = [
    "--max_steps", "3", "--per_device_train_batch_size", "2", "--learning_rate", "1e-3",
    "--logging_steps", "1", "--report_to", "none", "--use_cpu", "--disable_tqdm", "true",
    "--activation_checkpointing", "false", "--seed", "7",
]  # fmt: skip
SAMPLING = ["--max_completion_length", "8", "--steps_per_generation", "2", "--num_ppo_epochs", "1"]


def reward_by_length(completions: list[Any], **_: Any) -> list[float]:
    """A rule for PPO: the shorter the better."""
    return [-float(len(completion[0]["content"])) for completion in completions]


def argv(
    stage: str, folder: Path, model: Path, *more: str, rows: list[dict[str, Any]] | None = None
) -> list[str]:
    data = write_jsonl(folder / f"{stage}.jsonl", rows or ROWS[STAGES[stage].kind])
    words = ["--model_name_or_path", str(model), "--train_data", str(data)]
    if STAGES[stage].samples:
        words += SAMPLING
    if "reward_model" in STAGES[stage].roles and "--reward_model" not in more:
        words += ["--reward_model", f"{__name__}:reward_by_length"]
    return [*words, "--output_dir", str(folder / "out"), *QUICK, *more]


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / name)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_and_leaves_its_record(stage: str, tmp_path: Path, tiny_dir: Path) -> None:
    run_stage(stage, argv(stage, tmp_path, tiny_dir))
    out = tmp_path / "out"
    run = load_run(out)
    assert run is not None
    assert (run.stage, run.status) == (stage, "finished")
    assert run.inputs["train"][0].rows == len(WORDS)
    assert run.parents["model"].path == str(tiny_dir)
    assert math.isfinite(run.metrics["train_loss"])
    losses = [line for line in metrics(out) if "loss" in line]
    assert [line["step"] for line in losses] == [1, 2, 3]
    start, end = weights(tiny_dir), weights(out)
    shared = [key for key in start if key in end]
    assert any((start[key] != end[key]).any() for key in shared)


def test_rm_measures_itself_for_ppo(tmp_path: Path, tiny_dir: Path) -> None:
    held_out = write_jsonl(tmp_path / "held_out.jsonl", ROWS["preference"][:4])
    run_stage("rm", argv("rm", tmp_path, tiny_dir, "--eval_data", str(held_out)))
    run = load_run(tmp_path / "out")
    assert run is not None
    assert 0 <= run.metrics["eval_accuracy"] <= 1
    stats = json.loads((tmp_path / "out" / "reward_stats.json").read_text())
    assert stats["count"] == 4
    assert stats["std"] > 0
    assert run.metrics["reward_mean"] == stats["mean"]


def test_kto_mixes_the_labels_of_a_file_that_is_sorted_by_them(
    tmp_path: Path, tiny_dir: Path
) -> None:
    rows = sorted(ROWS["unpaired"], key=lambda row: row["label"])
    run_stage("kto", argv("kto", tmp_path, tiny_dir, rows=rows))
    assert any("rewards/margins" in line for line in metrics(tmp_path / "out"))


def test_kto_takes_pairs_apart(tmp_path: Path, tiny_dir: Path) -> None:
    run_stage("kto", argv("kto", tmp_path, tiny_dir, rows=ROWS["preference"]))
    run = load_run(tmp_path / "out")
    assert run is not None
    assert run.checks["train"]["rows"] == 2 * len(WORDS)


def test_lora_goes_through_all_stages_on_one_base(tmp_path: Path, tiny_dir: Path) -> None:
    lora = ["--use_peft", "--lora_r", "4", "--lora_alpha", "8"]
    lora += ["--lora_target_modules", "q_proj", "v_proj"]
    folders = {name: tmp_path / name for name in ("sft", "rm", "dpo", "kto", "ppo")}
    for folder in folders.values():
        folder.mkdir()
    sft = folders["sft"] / "out"
    run_stage("sft", argv("sft", folders["sft"], tiny_dir, *lora))
    run_stage("rm", argv("rm", folders["rm"], sft, *lora))
    run_stage("dpo", argv("dpo", folders["dpo"], sft, *lora))
    run_stage("kto", argv("kto", folders["kto"], sft, *lora))
    reward = ["--reward_model", str(folders["rm"] / "out")]
    run_stage("ppo", argv("ppo", folders["ppo"], sft, *lora, *reward))
    for folder in folders.values():
        config = json.loads((folder / "out" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tiny_dir)
    head = "base_model.model.score.weight"
    assert head in weights(folders["rm"] / "out", "adapter_model.safetensors")
    ppo = load_run(folders["ppo"] / "out")
    assert ppo is not None
    assert ppo.parents["reward_model"].stage == "rm"


def test_an_adapter_is_not_trained_with_other_words(tmp_path: Path, tiny_dir: Path) -> None:
    (tmp_path / "sft").mkdir()
    lora = ["--use_peft", "--lora_r", "4", "--lora_alpha", "8"]
    run_stage("sft", argv("sft", tmp_path / "sft", tiny_dir, *lora))
    adapter = tmp_path / "sft" / "out"
    with pytest.raises(AlignError, match="use_peft is false"):
        run_stage("dpo", argv("dpo", tmp_path, adapter))
    with pytest.raises(AlignError, match=r"has 4, 8"):
        run_stage("dpo", argv("dpo", tmp_path, adapter, "--use_peft", "--lora_r", "16"))


def test_a_used_folder_asks(tmp_path: Path, tiny_dir: Path) -> None:
    words = argv("sft", tmp_path, tiny_dir, "--save_steps", "2")
    run_stage("sft", words)
    with pytest.raises(AlignError, match=r"holds a sft run \(finished\)"):
        run_stage("sft", words)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    run_stage("sft", [*words, "--resume"])  # finished: says so and changes nothing
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    (tmp_path / "out" / "stale").touch()
    run_stage("sft", [*words, "--overwrite"])
    assert not (tmp_path / "out" / "stale").exists()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("stage", ["sft", "kto"])
def test_resume_ends_as_an_uninterrupted_run(stage: str, tmp_path: Path, tiny_dir: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    run_stage(stage, argv(stage, whole, tiny_dir, "--save_steps", "2"))
    words = argv(stage, broken, tiny_dir, "--save_steps", "2")
    run_stage(stage, words)
    out = broken / "out"  # undo all that came after step 2, as a crash would
    for path in [out / "model.safetensors", *out.glob("checkpoint-3/*")]:
        path.unlink()
    (out / "checkpoint-3").rmdir()
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "running"}))
    run_stage(stage, [*words, "--resume"])
    assert (out / "model.safetensors").read_bytes() == (
        whole / "out" / "model.safetensors"
    ).read_bytes()
    assert [line["step"] for line in metrics(out) if "loss" in line] == [1, 2, 3]


def test_a_run_of_an_earlier_layout_is_rejected_in_one_line(tmp_path: Path, tiny_dir: Path) -> None:
    words = argv("sft", tmp_path, tiny_dir, "--save_steps", "1")
    run_stage("sft", words)
    record = tmp_path / "out" / "run.json"
    facts = json.loads(record.read_text())
    del facts["layout"]
    record.write_text(json.dumps({**facts, "status": "interrupted"}))
    with pytest.raises(AlignError, match="its checkpoints are of another version of align") as told:
        run_stage("sft", [*words, "--resume", "--resume_anyway"])
    assert str(told.value).splitlines()[1:] == ["  start again with --overwrite"]


def test_resume_with_other_settings_is_refused(tmp_path: Path, tiny_dir: Path) -> None:
    words = argv("sft", tmp_path, tiny_dir, "--save_steps", "2")
    run_stage("sft", words)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps({**record, "status": "failed"}))
    with pytest.raises(AlignError, match=r"learning_rate 0.001 -> 0.5"):
        run_stage("sft", [*words, "--resume", "--learning_rate", "0.5"])
