"""The record beside a checkpoint: fingerprints, lineage, reading it back."""

import json
from pathlib import Path

import pytest

from alignment.errors import ConfigError
from alignment.runs.files import RECORD
from alignment.runs.lineage import describe_run, find_runs
from alignment.runs.record import (
    Parent,
    Run,
    Source,
    fingerprint,
    identify,
    load_run,
    new_run,
)
from alignment.settings.resolve import resolve

DATA = {"train": [Source("a.jsonl", "aa", 3)]}
PARENTS = {"model": Parent("runs/sft", "f" * 16, "sft")}


def mark(*flags: str, inputs: object = None, parents: object = None) -> str:
    values = resolve("dpo", list(flags)).values
    return fingerprint("dpo", settings=values, inputs=inputs or DATA, parents=parents or PARENTS)  # type: ignore[arg-type]


def test_a_fingerprint_names_what_decides_the_result() -> None:
    same = mark("--beta", "0.1")
    assert same == mark() == mark("--output_dir", "elsewhere", "--report_to", "wandb")
    assert same == mark("--train_data", "moved.jsonl", "--logging_steps", "7", "--overwrite")
    assert same == mark(inputs={"train": [Source("moved.jsonl", "aa", 3)]})
    assert same == mark(parents={"model": Parent("moved", "f" * 16, "sft")})


def test_a_fingerprint_changes_with_settings_data_and_parents() -> None:
    different = {
        mark(),
        mark("--beta", "0.2"),
        mark("--seed", "1"),
        mark("--max_rows", "2"),
        mark(inputs={"train": [Source("a.jsonl", "bb", 3)]}),
        mark(inputs={"train": DATA["train"], "eval": DATA["train"]}),
        mark(parents={"model": Parent("runs/sft", "e" * 16, "sft")}),
    }
    assert len(different) == 7


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    settings = resolve("dpo", ["--beta", "0.2", "--hub_token", "hf_planted"])
    run = new_run(
        "dpo", settings={**settings.values, "output_dir": str(tmp_path)},
        sources=settings.sources, inputs=DATA, parents=PARENTS,
    )  # fmt: skip
    run.write(tmp_path)
    assert load_run(tmp_path) == run
    text = (tmp_path / RECORD).read_text()
    assert "hf_planted" not in text
    assert json.loads(text)["settings"]["beta"] == {"value": 0.2, "source": "--beta"}
    assert set(run.versions) >= {"python", "torch", "trl", "transformers"}


def test_a_broken_record_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"stage": "dpo"')
    with pytest.raises(ConfigError, match="not a run record"):
        load_run(tmp_path)
    (tmp_path / RECORD).write_text("[]")
    with pytest.raises(ConfigError, match="not a run record"):
        load_run(tmp_path)


def record(folder: Path, stage: str, started: float, **parents: Parent) -> Run:
    run = Run(stage=stage, name=folder.name, fingerprint=f"{stage}-mark", status="finished")
    run.started, run.parents = started, parents
    run.write(folder)
    return run


def test_identify_names_runs_folders_and_hub_names(tmp_path: Path) -> None:
    record(tmp_path / "sft", "sft", 1.0)
    assert identify(str(tmp_path / "sft")).fingerprint == "sft-mark"
    checkpoint = tmp_path / "sft" / "checkpoint-5"
    checkpoint.mkdir()
    assert identify(str(checkpoint)).fingerprint == "sft-markcheckpoint-5"
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    before = identify(str(base))
    (base / "model.safetensors").write_bytes(b"x" * 10)
    assert identify(str(base)).fingerprint != before.fingerprint
    assert identify("Qwen/Qwen2.5-0.5B", "v1").fingerprint == "Qwen/Qwen2.5-0.5B@v1"


def test_lineage_is_a_tree_of_models(tmp_path: Path) -> None:
    def of(stage: str) -> Parent:
        return Parent(str(tmp_path / stage), f"{stage}-mark", stage)

    record(tmp_path / "sft", "sft", 1.0)
    record(tmp_path / "rm", "rm", 2.0, model=of("sft"))
    record(tmp_path / "ppo", "ppo", 4.0, model=of("sft"), reward_model=of("rm"))
    record(tmp_path / "dpo", "dpo", 3.0, model=of("sft"))
    (root,) = find_runs(tmp_path)
    assert root.run.stage == "sft"
    assert [node.run.stage for node in root.children] == ["rm", "dpo", "ppo"]
    assert "reward_model rm rm-mark" in describe_run(root.children[2], tmp_path)
