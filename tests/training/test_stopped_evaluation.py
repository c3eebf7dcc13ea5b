"""A signal in an evaluation or just before one: the loop is left, and resume makes up for it."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support import write_jsonl

from alignment.runs.record import load_run
from alignment.training.run import main
from alignment.training.trainers import PreparedSFTTrainer

#: When a run of 4 steps, 2 an epoch, evaluates, and in which of its evaluations the signal comes.
CASES = {
    "step 1 of 2 in an epoch": (["--eval_strategy", "steps", "--eval_steps", "1"], 1, [1]),
    "the last step of an epoch": (["--eval_strategy", "steps", "--eval_steps", "2"], 1, [2]),
    "an epoch": (["--eval_strategy", "epoch"], 1, [2]),
    "the last step": (["--eval_strategy", "steps", "--eval_steps", "2"], 2, [2, 4]),
    "the end of the run": (["--eval_strategy", "no"], 1, [2, 4]),
}


@pytest.fixture(scope="module")
def with_dropout(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose training depends on the random states."""
    folder = tmp_path_factory.mktemp("dropout") / "model"
    shutil.copytree(tiny_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    return folder


def words(folder: Path, model: Path, name: str, *flags: str) -> list[str]:
    rows = [{"prompt": f"say {n}", "completion": n * "one "} for n in range(1, 5)]
    data = str(write_jsonl(folder / "data.jsonl", rows))
    given = ["--model_name_or_path", str(model), "--train_data", data, "--eval_data", data]
    given += ["--output_dir", str(folder / name), "--report_to", "none", "--max_steps", "4"]
    given += ["--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "2"]
    given += ["--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-2", "--use_cpu"]
    return [*given, "--disable_tqdm", "true", "--activation_checkpointing", "false", *flags]


def results(run: Path) -> tuple[bytes, list[dict[str, Any]], dict[str, Any]]:
    """The weights, the metrics of each step and those of the record, without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    record = load_run(run)
    assert record is not None
    assert record.status == "finished"

    def untimed(row: dict[str, Any]) -> dict[str, Any]:
        timed = ("time", "per_second", "flos")
        return {key: x for key, x in row.items() if not any(word in key for word in timed)}

    # each part of a run ends with a mean loss
    steps = [untimed(row) for row in rows if "train_loss" not in row]
    return (run / "model.safetensors").read_bytes(), steps, untimed(record.metrics)


class Send:
    """Sends SIGTERM in the first batch of an evaluation and counts the batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, evaluation: int) -> None:
        self.left, self.batches = evaluation, 0
        loop, step = PreparedSFTTrainer.evaluation_loop, PreparedSFTTrainer.prediction_step

        def evaluation_loop(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self.left, self.batches = self.left - 1, 0
            return loop(trainer, *args, **kwargs)

        def prediction_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self.batches += 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(trainer, *args, **kwargs)

        monkeypatch.setattr(PreparedSFTTrainer, "evaluation_loop", evaluation_loop)
        monkeypatch.setattr(PreparedSFTTrainer, "prediction_step", prediction_step)


@pytest.mark.parametrize("name", CASES)
def test_a_signal_in_an_evaluation_ends_it_and_resume_comes_out_the_same(
    name: str, tmp_path: Path, with_dropout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, evaluation, saved = CASES[name]
    main("sft", words(tmp_path, with_dropout, "whole", *flags))
    with monkeypatch.context() as patched:
        sent = Send(patched, evaluation=evaluation)
        with pytest.raises(SystemExit) as ended:
            main("sft", words(tmp_path, with_dropout, "run", *flags))
    assert ended.value.code == 143
    assert sent.batches == 1, "the loop is left at once"
    assert sorted(int(p.name[11:]) for p in (tmp_path / "run").glob("checkpoint-*")) == saved
    assert load_run(tmp_path / "run").status == "interrupted"  # type: ignore[union-attr]

    main("sft", words(tmp_path, with_dropout, "run", *flags, "--resume"))
    assert results(tmp_path / "run") == results(tmp_path / "whole")


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_after_a_signal_no_evaluation_begins_and_resume_makes_up_for_it(
    strategy: str, tmp_path: Path, with_dropout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--eval_strategy", strategy, "--eval_steps", "2"]
    flags += ["--save_strategy", strategy, "--load_best_model_at_end", "true"]
    main("sft", words(tmp_path, with_dropout, "whole", *flags))
    real, steps = PreparedSFTTrainer.training_step, []

    def step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(trainer.state.global_step)
        if trainer.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(trainer, *args, **kwargs)

    def never(*args: Any, **kwargs: Any) -> None:
        pytest.fail("an evaluation began")

    with monkeypatch.context() as patched:
        patched.setattr(PreparedSFTTrainer, "training_step", step)
        patched.setattr(PreparedSFTTrainer, "evaluation_loop", never)
        with pytest.raises(SystemExit):
            main("sft", words(tmp_path, with_dropout, "run", *flags))
    assert steps[-1] == 1
    main("sft", words(tmp_path, with_dropout, "run", *flags, "--resume"))
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    state = [
        json.loads((tmp_path / run / "checkpoint-4" / "trainer_state.json").read_text())
        for run in ("run", "whole")
    ]
    assert state[0]["best_global_step"] == state[1]["best_global_step"]
