"""PPO through its stage: prompts that are too long, and its samples in a table of W&B."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import write_jsonl

from alignment.errors import DataError
from alignment.training.run import run_stage

LONG = "abc " * 180
ROWS = [{"prompt": f"say {word}"} for word in ("one", "two", "three", "four")]
TINY = [
    "--max_steps", "2", "--per_device_train_batch_size", "2", "--logging_steps", "1",
    "--max_completion_length", "8", "--steps_per_generation", "1", "--num_ppo_epochs", "1",
    "--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no", "--sample_steps", "1",
    "--activation_checkpointing", "false",
]  # fmt: skip


def length_is_reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(completion[0]["content"])) for completion in completions]


def words(folder: Path, model: Path, rows: list[dict[str, Any]], *more: str) -> list[str]:
    data = write_jsonl(folder / "rows.jsonl", rows)
    named = ["--model_name_or_path", str(model), "--train_data", str(data)]
    named += ["--reward_model", f"{__name__}:length_is_reward", "--output_dir", str(folder / "out")]
    return [*named, *TINY, *more] if "--report_to" in more else [
        *named, *TINY, "--report_to", "none", *more
    ]  # fmt: skip


def test_drop_leaves_out_prompts_with_no_room_and_names_them(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [ROWS[0], {"prompt": LONG}, *ROWS[1:]]
    held_out = write_jsonl(tmp_path / "held_out.jsonl", [*ROWS[:2], {"prompt": LONG}])
    more = ["--on_bad_row", "drop", "--eval_data", str(held_out)]
    more += ["--per_device_eval_batch_size", "2"]
    run_stage("ppo", words(tmp_path, tiny_dir, rows, *more))
    told = capsys.readouterr()
    assert "train: 5 rows, 4 kept, 1 too long for 504 tokens" in told.out
    assert f"dropped: {tmp_path / 'rows.jsonl'}:2: its prompt has" in told.err
    assert "dropped 1 of 5 train prompts: too long" in told.err
    assert f"dropped: {held_out}:3: its prompt has" in told.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["checks"]["train"]["too_long"] == 1
    samples = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["prompt"][0]["content"] for line in samples]
    assert set(prompts) == {row["prompt"] for row in ROWS}


def test_raise_stops_at_such_a_prompt(tmp_path: Path, tiny_dir: Path) -> None:
    rows = [ROWS[0], {"prompt": LONG}, *ROWS[1:]]
    with pytest.raises(DataError, match="1 of 5 prompts leave no room") as caught:
        run_stage("ppo", words(tmp_path, tiny_dir, rows))
    assert "--on_bad_row drop" in str(caught.value.remedy)


def test_drop_stops_where_no_prompt_is_left(tmp_path: Path, tiny_dir: Path) -> None:
    more = ["--on_bad_row", "drop"]
    with pytest.raises(DataError, match=r"nothing is left to learn: .*4 too long") as caught:
        run_stage("ppo", words(tmp_path, tiny_dir, [{"prompt": LONG}] * 4, *more))
    assert "lower max_completion_length" in str(caught.value.remedy)


@pytest.fixture
def offline(own_wandb: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WANDB_MODE", "offline")
    import wandb

    return wandb


def test_samples_become_a_table_in_wandb(tmp_path: Path, tiny_dir: Path, offline: Any) -> None:
    run_stage("ppo", words(tmp_path, tiny_dir, ROWS, "--report_to", "wandb"))
    offline.finish()
    out = tmp_path / "out"
    (log,) = out.glob("wandb/offline-run-*/*.wandb")
    for word in (b"samples", b"table-file", b"train/objective/kl"):
        assert word in log.read_bytes()
    files = sorted(out.glob("wandb/offline-run-*/files/media/table/samples_*.table.json"))
    tables = [json.loads(file.read_text()) for file in files]
    assert all(t["columns"] == ["step", "prompt", "completion", "score", "kl"] for t in tables)
    rows = sorted((row for table in tables for row in table["data"]), key=lambda row: row[0])
    written = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row[0] for row in rows] == [line["step"] for line in written] == [0, 0, 1, 1]
    assert [row[3] for row in rows] == pytest.approx([line["score"] for line in written])
    assert [json.loads(row[2]) for row in rows] == [line["completion"] for line in written]
