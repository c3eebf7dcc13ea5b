"""`align run` on the tiny model: order, lineage, and exactly what a change concerns runs again."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, write_jsonl

from alignment.pipeline.file import read_pipeline
from alignment.pipeline.run import Plan, plan_pipeline, run_pipeline
from alignment.runs.record import load_run

PAIRS = [
    {"prompt": f"say {word}", "chosen": word, "rejected": "no"}
    for word in ("one", "two", "three", "四", "five", "六")
]
QUICK = """\
max_steps: 1
per_device_train_batch_size: 2
report_to: none
use_cpu: true
disable_tqdm: true
activation_checkpointing: false
save_strategy: "no"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """A pipeline that ran once, in a folder of its own."""
    root = tmp_path_factory.mktemp("pipeline")
    write_jsonl(root / "pairs.jsonl", PAIRS)
    write_jsonl(root / "more.jsonl", PAIRS)
    extra = {
        "sft": f"model_name_or_path: {tiny_dir}\ntrain_data: {root}/pairs.jsonl\n",
        "rm": f"train_data: {root}/more.jsonl\n",
        "dpo": f"train_data: {root}/pairs.jsonl\n",
        "ppo": f"train_data: {root}/pairs.jsonl\nmax_completion_length: 4\n"
        "steps_per_generation: 1\nnum_ppo_epochs: 1\n",
    }
    for stage, text in extra.items():
        (root / f"{stage}.yaml").write_text(QUICK + text, encoding="utf-8")
    (root / "pipeline.yaml").write_text(
        f"name: tiny\noutput_dir: {root}/runs\nstages:\n"
        "  sft: {config: sft.yaml}\n"
        "  rm:  {config: rm.yaml, needs: {model: sft}}\n"
        "  dpo: {config: dpo.yaml, needs: {model: sft}}\n"
        "  ppo: {config: ppo.yaml, needs: {model: sft, reward_model: rm}}\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        assert run_pipeline(plan(root)) == 0
    return root


def plan(root: Path, *overrides: str, **options: Any) -> list[Plan]:
    return plan_pipeline(read_pipeline(root / "pipeline.yaml", overrides), **options)


def actions(plans: list[Plan]) -> dict[str, str]:
    return {plan.step.name: plan.action for plan in plans}


UP_TO_DATE = dict.fromkeys(("sft", "rm", "dpo", "ppo"), "skip")


def test_each_stage_left_a_record_that_names_its_parents(folder: Path) -> None:
    runs = {name: load_run(folder / "runs" / name) for name in UP_TO_DATE}
    assert {name: run and run.status for name, run in runs.items()} == dict.fromkeys(
        UP_TO_DATE, "finished"
    )
    sft, rm, ppo = runs["sft"], runs["rm"], runs["ppo"]
    assert sft
    assert rm
    assert ppo
    assert ppo.parents["model"].fingerprint == sft.fingerprint
    assert ppo.parents["reward_model"].fingerprint == rm.fingerprint
    assert ppo.inputs["train"][0].rows == len(PAIRS)
    assert ppo.settings["run_group"]["value"] == "tiny"
    for name in UP_TO_DATE:
        assert (folder / "runs" / name / "metrics.jsonl").stat().st_size > 0


def test_what_is_up_to_date_is_skipped(folder: Path) -> None:
    assert actions(plan(folder)) == UP_TO_DATE
    assert {p.reason for p in plan(folder)} == {"up to date"}


def test_a_setting_concerns_its_stage_and_those_below(folder: Path) -> None:
    plans = plan(folder, "rm.learning_rate=1e-3")
    assert actions(plans) == {**UP_TO_DATE, "rm": "run", "ppo": "run"}
    reasons = {p.step.name: p.reason for p in plans}
    assert reasons["rm"] == "learning_rate 0.0001 -> 0.001"
    assert reasons["ppo"] == "its reward model changed"
    assert actions(plan(folder, "dpo.beta=0.3")) == {**UP_TO_DATE, "dpo": "run"}
    assert set(actions(plan(folder, "sft.seed=3")).values()) == {"run"}


def test_logging_concerns_nothing(folder: Path) -> None:
    assert actions(plan(folder, "sft.logging_steps=1", "rm.run_name=x")) == UP_TO_DATE


def test_data_concerns_those_who_read_it(folder: Path) -> None:
    path = folder / "more.jsonl"
    before = path.read_bytes()
    try:
        write_jsonl(path, PAIRS[:-1])
        plans = plan(folder)
    finally:
        path.write_bytes(before)
    assert actions(plans) == {**UP_TO_DATE, "rm": "run", "ppo": "run"}
    assert plans[1].reason == "train data changed: more.jsonl"
    assert actions(plan(folder)) == UP_TO_DATE


@pytest.mark.parametrize(
    ("stage", "name", "stale"),
    [
        ("sft", "model.safetensors", ["dpo", "ppo", "rm"]),
        ("sft", "tokenizer.json", ["dpo", "ppo", "rm"]),
        ("rm", "reward_stats.json", ["ppo"]),
    ],
)
def test_a_file_that_was_changed_since_concerns_those_who_use_it(
    folder: Path, stage: str, name: str, stale: list[str]
) -> None:
    path = folder / "runs" / stage / name
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        plans = plan(folder)
        left = plan(folder, only=["ppo"])
    finally:
        path.write_bytes(before)
    assert [p.step.name for p in plans if p.action == "run"] == [
        p.step.name for p in plans if p.step.name in stale
    ]
    reasons = {p.step.name: p.reason for p in plans}
    assert reasons[stage] == f"up to date, but changed since: {name}"
    role = "reward model" if stage == "rm" else "model"
    assert f"its {role} changed" in reasons["ppo"]
    assert actions(left)["ppo"] == "run"
    (path.parent / "notes.json").write_text("{}")  # what came later is not what the run wrote
    try:
        assert actions(plan(folder)) == UP_TO_DATE
    finally:
        (path.parent / "notes.json").unlink()


def test_only_from_and_force(folder: Path) -> None:
    changed = "sft.seed=3"
    assert actions(plan(folder, changed, only=["dpo"])) == {
        "sft": "leave", "rm": "leave", "dpo": "skip", "ppo": "leave",
    }  # fmt: skip
    assert actions(plan(folder, start="dpo", force=True)) == {
        "sft": "leave", "rm": "leave", "dpo": "run", "ppo": "run",
    }  # fmt: skip
    assert plan(folder, only=["sft"], force=True)[0].reason == "forced"


def test_an_interrupted_stage_goes_on_where_it_has_a_checkpoint(folder: Path) -> None:
    record = folder / "runs" / "dpo" / "run.json"
    before = record.read_text(encoding="utf-8")
    checkpoint = folder / "runs" / "dpo" / "checkpoint-1"
    try:
        record.write_text(json.dumps({**json.loads(before), "status": "interrupted"}))
        assert actions(plan(folder)) == {**UP_TO_DATE, "dpo": "run"}
        checkpoint.mkdir()
        plans = plan(folder)
    finally:
        record.write_text(before, encoding="utf-8")
        checkpoint.rmdir()
    assert actions(plans) == {**UP_TO_DATE, "dpo": "resume"}
    assert plans[2].argv[-1] == "--resume"


def test_a_printed_command_can_be_pasted(folder: Path) -> None:
    ppo = plan(folder, force=True)[3]
    words = shlex.split(ppo.pasteable)
    assert words[:3] == ["align", "ppo", str(folder / "ppo.yaml")]
    assert words[words.index("--reward_model") + 1] == str(folder / "runs" / "rm")
    assert words[-1] == "--overwrite"


def test_a_stage_that_fails_ends_the_pipeline(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    wrong = ("rm.lora_target_modules=no_such_layer", "rm.use_peft=1")
    plans = plan(folder, *wrong, "rm.trust_remote_code=true")
    assert run_pipeline(plans) == 2
    told = capfd.readouterr().err
    assert "rm ended with exit code" in told
    lines = [line for line in told.splitlines() if "code of its models will run" in line]
    assert lines == ["  trust_remote_code: code of its models will run (--trust_remote_code)"]
    assert load_run(folder / "runs" / "ppo") is not None  # what was there stays


def test_a_reward_function_is_missed_before_the_first_stage_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "length_rules.py").write_text(
        "def length(completions, **columns):\n    return [float(len(c)) for c in completions]\n"
    )
    (tmp_path / "pipeline.yaml").write_text(
        f"name: rules\noutput_dir: {tmp_path}/runs\nstages:\n"
        f"  sft: {{config: {folder}/sft.yaml}}\n"
        f"  ppo: {{config: {folder}/ppo.yaml, needs: {{model: sft}}}}\n"
    )

    def run(reward: str) -> int:
        return run_pipeline(plan(tmp_path, f"ppo.reward_model={reward}"))

    assert run("length_rules.py:width") == 2
    told = capfd.readouterr()
    assert "no function 'width' in length_rules.py" in told.err
    assert "sft: run" not in told.out
    assert not (tmp_path / "runs").exists()
    assert run("length_rules:length") == 0
    ppo = load_run(tmp_path / "runs" / "ppo")
    assert ppo
    before = ppo.parents["reward_model"].fingerprint
    assert actions(plan(tmp_path, "ppo.reward_model=length_rules.py:length"))["ppo"] == "skip"
    (tmp_path / "length_rules.py").write_text("length = len\n")
    changed = plan(tmp_path, "ppo.reward_model=length_rules:length")[1]
    assert (changed.action, changed.reason) == ("run", "its reward model changed")
    assert before.endswith(":length")


@pytest.mark.parametrize(
    "door",
    [
        ["-m", "alignment", "dpo"],
        ["recipes/dpo.py"],
        ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "recipes/dpo.py"],
    ],
    ids=["module", "recipe", "accelerate"],
)
def test_every_door_leads_to_the_same_result(
    door: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same recipe and flag give the same weights, to the bit, through each entry point."""
    import subprocess
    import sys

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    words = [str(folder / "dpo.yaml"), "--model_name_or_path", str(folder / "runs" / "sft")]
    words += ["--output_dir", str(tmp_path / "dpo"), "--beta", "0.1"]
    subprocess.run([sys.executable, *door, *words], check=True, cwd=REPOSITORY)
    mine, theirs = (path / "model.safetensors" for path in (tmp_path / "dpo", folder / "runs/dpo"))
    assert mine.read_bytes() == theirs.read_bytes()
    ours, other = load_run(tmp_path / "dpo"), load_run(folder / "runs" / "dpo")
    assert ours
    assert other
    assert ours.fingerprint == other.fingerprint
