"""The best model: its metric and direction in each stage, early stopping, and after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support import write_jsonl
from transformers import TrainerControl, TrainerState, TrainingArguments

from alignment.errors import ConfigError
from alignment.registry import STAGES
from alignment.settings.resolve import build, resolve
from alignment.training.early_stopping import EarlyStopping, WholeLoss
from alignment.training.guard import Complete
from alignment.training.run import run_stage

BEST = {
    "pt": ("loss", False),
    "sft": ("loss", False),
    "rm": ("accuracy", True),
    "dpo": ("rewards/accuracies", True),
    "kto": ("loss", False),
    "ppo": ("objective/rlhf_reward", True),
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "sft": [{"prompt": f"say {n}", "completion": "one two " * n} for n in range(1, 9)],
    "ppo": [{"prompt": f"say {n}"} for n in range(8)],
}
#: A reward of PPO that falls with each evaluation, whose rollouts alone have 8 prompts.
FALLS = """
from pathlib import Path

def reward(prompts, completions, **columns):
    seen = Path("seen.txt")
    count = len(seen.read_text()) if seen.exists() else 0
    if len(prompts) < 8:
        return [float(n) for n in range(len(prompts))]
    seen.write_text("x" * (count + 1))
    return [-float(count)] * len(prompts)
"""
EVALUATES = ["--eval_fraction", "0.1", "--eval_strategy", "steps", "--use_cpu"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "why",
    [["--load_best_model_at_end"], ["--save_strategy", "best"], ["--early_stopping_patience", "2"]],
    ids=str,
)
def test_each_stage_has_a_metric_and_a_direction(stage: str, why: list[str]) -> None:
    args = build(resolve(stage, [*EVALUATES, *why]))[-1]
    assert (args.metric_for_best_model, args.greater_is_better) == BEST[stage]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_the_user_names_is_used() -> None:
    flags = [*EVALUATES, "--load_best_model_at_end", "--metric_for_best_model", "objective/kl"]
    args = build(resolve("ppo", [*flags, "--greater_is_better", "false"]))[-1]
    assert (args.metric_for_best_model, args.greater_is_better) == ("objective/kl", False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_metric_brings_its_direction() -> None:
    flags = [*EVALUATES, "--load_best_model_at_end", "--metric_for_best_model"]
    for stage, metric, greater in (
        ("sft", "eval_mean_token_accuracy", True),
        ("rm", "loss", False),
        ("dpo", "rewards/margins", True),
        ("ppo", "rewards/my_rule", True),
    ):
        assert build(resolve(stage, [*flags, metric]))[-1].greater_is_better is greater


def test_a_metric_that_no_evaluation_has_or_without_direction_is_refused() -> None:
    flags = [*EVALUATES, "--load_best_model_at_end", "--metric_for_best_model"]
    with pytest.raises(ConfigError, match="metric_for_best_model: no evaluation has 'acuracy'"):
        resolve("rm", [*flags, "acuracy"])
    with pytest.raises(ConfigError, match="metric_for_best_model: objective/kl is not known to be"):
        resolve("ppo", [*flags, "objective/kl"])


def test_early_stopping_needs_evaluations() -> None:
    with pytest.raises(ConfigError, match="early_stopping_patience: needs evaluations"):
        resolve("sft", ["--early_stopping_patience", "2"])


@pytest.mark.parametrize(
    ("values", "greater", "stops"),
    [
        ([3.0, 2.0, 1.0], False, False),
        ([1.0, 2.0, 3.0], False, True),
        ([1.0, 2.0, 0.5], False, False),
        ([1.0, 2.0], False, False),
        ([1.0, 2.0, 3.0], True, False),
        ([3.0, 2.0, 3.0], True, True),
        ([], True, False),
    ],
)
def test_patience_counts_evaluations_since_the_best(
    values: list[float], greater: bool, stops: bool, tmp_path: Path
) -> None:
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], metric_for_best_model="loss",
        greater_is_better=greater,
    )  # fmt: skip
    history = [{"loss": 0.0}, *({"eval_loss": value} for value in values)]
    state, control = TrainerState(log_history=history), TrainerControl()
    callback = EarlyStopping(2)
    callback.on_evaluate(args, state, control)
    assert control.should_training_stop is stops
    if stops:
        with pytest.raises(Complete):
            callback.on_train_begin(args, state, control)


def test_the_mean_loss_is_over_all_steps(tmp_path: Path) -> None:
    args, callback = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]), WholeLoss()
    callback.on_train_begin(args, TrainerState(global_step=6), TrainerControl())
    logs = {"train_loss": 20.0 / 4}  # a sum of 20, which Trainer divides by the last 4 steps
    callback.on_log(args, TrainerState(global_step=10), TrainerControl(), logs)
    assert logs["train_loss"] == pytest.approx(2.0)


@pytest.mark.parametrize("where", ["transformers.Trainer._load_best_model", "before step 3"])
def test_a_killed_run_ends_as_one_that_was_not(
    where: str, tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rate is so high that the first evaluation is the best."""
    rows = [{"prompt": f"say {n}", "completion": "one two " * n} for n in range(1, 9)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    words = ["--model_name_or_path", str(tiny_dir), "--train_data", str(data), "--use_cpu"]
    words += ["--eval_data", str(data), "--eval_strategy", "steps", "--eval_steps", "1"]
    words += ["--save_steps", "1", "--max_steps", "3", "--learning_rate", "1"]
    words += ["--load_best_model_at_end", "--disable_tqdm", "true", "--preflight", "false"]
    words += ["--logging_steps", "1", "--per_device_train_batch_size", "2", "--report_to", "none"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_stage("sft", [*words, "--output_dir", str(whole)])

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def die_at_step_3(guard: Any, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if where == "before step 3":
            patched.setattr("alignment.training.guard.Guard.on_step_begin", die_at_step_3)
        else:  # the last checkpoint is there, the best model is not saved
            patched.setattr(where, die)
        with pytest.raises(KeyboardInterrupt):
            run_stage("sft", [*words, "--output_dir", str(killed)])
    run_stage("sft", [*words, "--output_dir", str(killed), "--resume"])
    found = [json.loads((folder / "run.json").read_text())["metrics"] for folder in (whole, killed)]
    same = ["eval_loss", "eval_mean_token_accuracy", "loss", "entropy", "train_loss"]
    expected = pytest.approx({key: found[0][key] for key in same})
    assert {key: found[1][key] for key in same} == expected
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all((first[name] == second[name]).all() for name in first)
    best = load_file(whole / "checkpoint-1" / "model.safetensors")
    assert all((first[name] == best[name]).all() for name in first)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_run_stops_early_and_ends_in_its_best_model(
    stage: str, tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first evaluation is the best; of 6 steps, 3 are made, also after a kill at step 2."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", ROWS[stage])
    (tmp_path / "falls.py").write_text(FALLS)
    words = ["--model_name_or_path", str(tiny_dir), "--train_data", "rows.jsonl", "--use_cpu"]
    words += ["--eval_data", "rows.jsonl", "--eval_strategy", "steps", "--eval_steps", "1"]
    words += ["--save_steps", "1", "--max_steps", "6", "--disable_tqdm", "true"]
    words += ["--early_stopping_patience", "2", "--load_best_model_at_end"]
    words += ["--preflight", "false", "--logging_steps", "1", "--report_to", "none"]
    words += ["--per_device_train_batch_size", "2", "--learning_rate", "1"]
    if stage == "ppo":
        words += ["--reward_model", "falls.py:reward", "--max_completion_length", "4"]
        words += ["--learning_rate", "1e-3", "--per_device_eval_batch_size", "8", "--beta", "0"]
    run_stage(stage, [*words, "--output_dir", "whole"])

    def die(guard: Any, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("alignment.training.guard.Guard.on_step_begin", die)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, [*words, "--output_dir", "killed"])
    run_stage(stage, [*words, "--output_dir", "killed", "--resume"])
    best = load_file("whole/checkpoint-1/model.safetensors")
    last = load_file("whole/checkpoint-3/model.safetensors")
    assert any((best[name] != last[name]).any() for name in best)
    for run in ("whole", "killed"):
        lines = Path(run, "metrics.jsonl").read_text().splitlines()
        assert max(json.loads(line)["step"] for line in lines) == 3
        saved = load_file(f"{run}/model.safetensors")
        assert all((saved[name] == best[name]).all() for name in best)
