"""What a resumed run must be, and what a run leaves in its record."""

import json
from pathlib import Path

import pytest
from support import write_jsonl

from alignment.errors import ConfigError, TrainingError
from alignment.runs.record import load_run
from alignment.settings.resolve import resolve
from alignment.training.job import last_logged, open_job
from alignment.training.run import run_stage
from alignment.training.signals import StopSignals


def sft(folder: Path, model: Path, *flags: str) -> list[str]:
    """The words of a run of two steps, with a checkpoint after each."""
    data = folder / "data.jsonl"
    if not data.exists():
        write_jsonl(data, [{"prompt": f"say {n}", "completion": str(n)} for n in range(8)])
    words = ["--model_name_or_path", str(model), "--train_data", str(data), "--use_cpu"]
    words += ["--output_dir", str(folder / "out"), "--report_to", "none", "--disable_tqdm", "true"]
    words += ["--max_steps", "2", "--save_steps", "1", "--logging_steps", "1"]
    return [*words, *flags]


def interrupt(folder: Path, **changes: object) -> None:
    """Make the record that of a run which was interrupted after step 1."""
    run = folder / "out"
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record |= {"status": "interrupted", **changes}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    for file in sorted((run / "checkpoint-2").iterdir()):
        file.unlink()
    (run / "checkpoint-2").rmdir()


def test_a_checkpoint_without_an_optimizer_is_not_resumed(tmp_path: Path, tiny_dir: Path) -> None:
    run_stage("sft", sft(tmp_path, tiny_dir, "--save_only_model"))
    interrupt(tmp_path)
    with pytest.raises(ConfigError) as refused:
        run_stage("sft", sft(tmp_path, tiny_dir, "--resume", "--resume_anyway"))
    assert "checkpoint-1: no run can resume without scheduler.pt and the optimizer" in str(
        refused.value
    )
    assert "start again with --overwrite" in str(refused.value)


def test_another_number_of_processes_is_another_run(tmp_path: Path, tiny_dir: Path) -> None:
    words = sft(tmp_path, tiny_dir)
    run_stage("sft", words)
    interrupt(tmp_path, processes=2)
    with pytest.raises(ConfigError, match=r"cannot resume another run: processes 2 -> 1\n"):
        run_stage("sft", [*words, "--resume"])
    run_stage("sft", [*words, "--resume", "--resume_anyway"])
    run = load_run(tmp_path / "out")
    assert run is not None
    assert (run.status, run.processes) == ("finished", 1)


def test_a_checkpoint_of_the_last_step_only_has_to_be_saved(
    tmp_path: Path, tiny_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = sft(tmp_path, tiny_dir)
    run_stage("sft", words)
    model = tmp_path / "out" / "model.safetensors"
    weights = model.read_bytes()
    model.unlink()
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    record["status"] = "interrupted"
    (tmp_path / "out" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    run_stage("sft", [*words, "--resume"])
    assert "no step is left" in caplog.text
    assert model.read_bytes() == weights


def test_a_run_that_fails_names_the_run_that_it_was_to_replace(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stage("sft", sft(tmp_path, tiny_dir))
    assert "previous run" not in capsys.readouterr().err
    with pytest.raises(TrainingError):
        run_stage("sft", sft(tmp_path, tiny_dir, "--overwrite", "--learning_rate", "1e39"))
    line = f"the previous run is unchanged, in {tmp_path / 'out.previous-1'}\n"
    assert line in capsys.readouterr().err
    run_stage("sft", sft(tmp_path, tiny_dir, "--overwrite"))
    assert "previous run" not in capsys.readouterr().err


def test_the_last_value_of_each_metric_without_where_it_was_logged() -> None:
    history = [
        {"loss": 2.0, "grad_norm": 1.0, "epoch": 0.5, "step": 1},
        {"eval_loss": 1.5, "epoch": 0.5, "step": 1},
        {"loss": 1.0, "epoch": 1.0, "step": 2},
    ]
    assert last_logged(history) == {"loss": 1.0, "grad_norm": 1.0, "eval_loss": 1.5}
    assert last_logged([]) == {}


def test_a_parent_that_changed_since_is_named(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sft(tmp_path, tiny_dir, "--max_steps", "1")
    run_stage("sft", words)
    parent, child = tmp_path / "out", tmp_path / "child"
    words = ["--model_name_or_path", str(parent), *words[2:], "--output_dir", str(child)]

    def settings() -> None:
        open_job(resolve("sft", [*words, "--overwrite"]), StopSignals())

    settings()
    assert "changed since" not in capsys.readouterr().err
    with (parent / "model.safetensors").open("ab") as file:
        file.write(b" ")
    settings()
    assert (
        f"model {parent}: model.safetensors changed since that run finished; this run starts from "
        "what is there now" in capsys.readouterr().err
    )
