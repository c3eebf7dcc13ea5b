"""The command line as a user meets it: help, mistakes, doors that lead to one room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY, write_jsonl

from alignment.registry import STAGES


def align(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alignment", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd or REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"},
    )


def test_help_lists_every_command() -> None:
    text = align("--help").stdout
    for name in (*STAGES, "run", "runs", "eval", "report", "init-model", "merge", "data"):
        assert f"  {name} " in text


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_names_its_essential_keys(stage: str) -> None:
    text = align(stage, "--help").stdout
    for key in STAGES[stage].keys:
        assert f"--{key}" in text
    assert STAGES[stage].summary in text


@pytest.mark.parametrize("stage", STAGES)
def test_help_all_names_every_key(stage: str) -> None:
    from alignment.settings.schema import schema_of

    text = align(stage, "--help-all").stdout
    for key in schema_of(stage):
        assert f"  --{key}  (" in text


def test_dry_run_prints_each_changed_key_with_its_source(tmp_path: Path) -> None:
    recipe = tmp_path / "dpo.yaml"
    recipe.write_text("beta: 0.2\nseed: 42\n")
    done = align("dpo", str(recipe), "--learning_rate", "1e-5", "--dry-run")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["beta", "0.2", f"{recipe}:1"], ["learning_rate", "1e-05", "--learning_rate"]]
    assert done.returncode == 0


GOOD_ROW = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dpo", "none.yaml"], "none.yaml: no such file"),
        (["dpo", "--bet", "1"], "--bet: unknown key 'bet'"),
        (["dpo", "--train_data", "good.jsonl"], "model_name_or_path: no model is named"),
        (["dpo", "--model_name_or_path", "MODEL"], "train_data: no data to train on"),
        (["dpo", "--model_name_or_path", "MODEL", "--train_data", "no.jsonl"],
         "no.jsonl: no such file"),
        (["dpo", "--model_name_or_path", "MODEL", "--train_data", "empty.jsonl"], "empty.jsonl"),
        (["dpo", "--model_name_or_path", "MODEL", "--train_data", "bad.jsonl"],
         "bad.jsonl:2"),
        (["dpo", "--model_name_or_path", "empty", "--train_data", "good.jsonl"],
         "empty: no model here: no config.json"),
        (["dpo", "--model_name_or_path", "./nowhere", "--train_data", "good.jsonl"],
         "nowhere: no such folder, and no hub model"),
        (["dpo", "--model_name_or_path", "MODEL", "--train_data", "good.jsonl",
          "--output_dir", "full"], "full: not empty, and not a run of align"),
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["runs", "nowhere"], "nowhere: no such folder"),
        (["sfx"], "No such command 'sfx'"),
        (["init-model", "tinny", "out"], "tinny"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_in_two_lines(
    words: list[str], message: str, tmp_path: Path, tiny_dir: Path
) -> None:
    write_jsonl(tmp_path / "good.jsonl", [GOOD_ROW] * 2)
    write_jsonl(tmp_path / "bad.jsonl", [GOOD_ROW, {"prompt": "a", "chosen": "b"}])
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    named = [str(tiny_dir) if word == "MODEL" else word for word in words]
    if "--output_dir" not in named and words[0] == "dpo" and "none.yaml" not in words:
        named += ["--output_dir", "out"]
    done = align(*named, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("Usage")]
    assert len(told) <= 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["sft", "--train_data", "x.jsonl", "--model_name_or_path"],
        ["sft", "--model_name_or_path", "x", "--train_data"],
        ["data", "validate"],
        ["run"],
    ],
    ids=" ".join,
)
def test_a_name_that_no_file_system_takes_is_a_user_error(words: list[str]) -> None:
    done = align(*words, "名" * 100)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {'名' * 60}...: no file system has so long a name",
        "  a name may have 255 bytes (85 Chinese characters), a path 4,096",
    ]
