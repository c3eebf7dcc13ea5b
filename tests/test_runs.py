"""The record beside a checkpoint: fingerprints, lineage, reading it back."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import ConfigError
from alignment.runs.changes import changes_since
from alignment.runs.files import RECORD, checkpoint_name, checkpoint_step, checkpoints, run_folder
from alignment.runs.lineage import describe_run, find_runs
from alignment.runs.outputs import digest_outputs
from alignment.runs.record import (
    Parent,
    Run,
    Source,
    changed_parents,
    fingerprint,
    identify,
    load_run,
    new_run,
)
from alignment.settings.resolve import resolve

DATA = {"train": [Source("a.jsonl", "aa", 3)]}
A, B = Source("a.jsonl", "aa", 3), Source("b.jsonl", "bb", 4)
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
        mark(inputs={"train": [A, B]}),
        mark(inputs={"train": [B, A]}),
        mark(parents={"model": Parent("runs/sft", "e" * 16, "sft")}),
        mark(parents={**PARENTS, "reward_model": Parent("runs/rm", "d" * 16, "rm")}),
    }
    assert len(different) == 10


def test_a_record_has_the_command_line_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/align", "sft", "--hub_token", "abc", "--seed", "3"])
    run = new_run("sft", settings={"output_dir": "x/y"}, sources={}, inputs={}, parents={})
    assert run.command == ["align", "sft", "--hub_token", "<redacted>", "--seed", "3"]
    assert (run.name, run.stage) == ("y", "sft")


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


def test_a_record_is_replaced_in_one_step(tmp_path: Path) -> None:
    run = record(tmp_path, "sft", 1.0)
    before = (tmp_path / RECORD).read_text()
    os.link(tmp_path / RECORD, tmp_path / "old")
    run.status = "failed"
    run.write(tmp_path)
    assert (tmp_path / "old").read_text() == before, "the record was changed in place"
    assert load_run(tmp_path) == run
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", RECORD]


def test_a_record_says_which_commit_and_whether_files_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", *who, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    def found() -> dict[str, Any]:
        values = {"output_dir": "out"}
        return new_run("sft", settings=values, sources={}, inputs={}, parents={}).git

    monkeypatch.chdir(tmp_path)
    assert found() == {}
    git("init", "-q")
    assert found() == {}, "there is no commit yet"
    Path("a.txt").write_text("a")
    git("add", "a.txt")
    git("commit", "-q", "-m", "Begin")
    Path("new.txt").write_text("not part of the repository")
    commit = git("rev-parse", "HEAD")
    assert found() == {"commit": commit, "dirty": False}
    Path("a.txt").write_text("b")
    assert found() == {"commit": commit, "dirty": True}


def test_a_fingerprint_is_the_same_in_every_version() -> None:
    settings = {"word": "é", "beta": 0.1, "output_dir": "x", "report_to": "none", "weights": [1, 2]}
    text = (
        '{"inputs": {"train": ["aa"]}, "parents": {"model": "ffffffffffffffff"}, "settings": '
        '{"beta": 0.1, "weights": [1, 2], "word": "é"}, "stage": "dpo"}'
    )
    wanted = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert fingerprint("dpo", settings=settings, inputs=DATA, parents=PARENTS) == wanted


def test_a_parent_that_was_changed_is_named_with_its_files(tmp_path: Path) -> None:
    for name in ("config.json", "vocab.txt", "merges.txt"):
        (tmp_path / name).write_text("a")
    run = record(tmp_path, "rm", 1.0)
    run.outputs = digest_outputs(tmp_path)
    run.write(tmp_path)
    parents = {"reward_model": identify(str(tmp_path)), "model": Parent("org/hub", "x", None)}
    assert list(changed_parents(parents)) == []
    for name in ("vocab.txt", "merges.txt"):
        (tmp_path / name).write_text("b")
    parents["reward_model"] = identify(str(tmp_path))
    assert list(changed_parents(parents)) == [
        f"reward model {tmp_path}: merges.txt, vocab.txt changed since that run finished; "
        "this run starts from what is there now"
    ]


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
    before = identify(str(checkpoint)).fingerprint
    assert before.startswith("sft-markcheckpoint-5")
    (checkpoint / "model.safetensors").write_bytes(b"x")
    assert identify(str(checkpoint)).fingerprint != before
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    before = identify(str(base)).fingerprint
    (base / "model.safetensors").write_bytes(b"x" * 10)
    assert identify(str(base)).fingerprint != before
    assert identify("Qwen/Qwen2.5-0.5B", "v1").fingerprint == "Qwen/Qwen2.5-0.5B@v1"


def change_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "chat_template.jinja").write_text("b"),
        lambda folder: (folder / "additional_chat_templates" / "rag.jinja").write_text("b"),
        lambda folder: (folder / "modeling_own.py").write_text("b"),
        lambda folder: (folder / "vocab.txt").write_text("b"),
        lambda folder: (folder / "tokenizer.model").write_text("b"),
        lambda folder: change_byte(folder / "tokenizer.json", 20 * MEGABYTE),
        lambda folder: change_byte(folder / "adapter_model.bin", 3 * MEGABYTE),
        lambda folder: change_byte(folder / "model.safetensors", 0),
        lambda folder: change_byte(folder / "model.safetensors", -1),
        lambda folder: change_byte(folder / "model.safetensors", 20 * MEGABYTE),
        lambda folder: (folder / "model.safetensors").write_bytes(bytes(40 * MEGABYTE + 1)),
        lambda folder: (folder / "merges.txt").write_text(""),
        lambda folder: (folder / "vocab.txt").unlink(),
        lambda folder: (folder / "vocab.txt").rename(folder / "words.txt"),
    ],
    ids=["template", "named template", "code", "vocabulary", "sentencepiece", "tokenizer", "middle",
         "head", "tail", "large middle", "size", "more", "less", "name"],
)  # fmt: skip
def test_every_file_of_a_model_counts(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    for name in ("chat_template.jinja", "additional_chat_templates/rag.jinja", "modeling_own.py",
                 "vocab.txt", "tokenizer.model"):  # fmt: skip
        (tmp_path / name).write_text("a")
    (tmp_path / "tokenizer.json").write_bytes(bytes(40 * MEGABYTE))
    (tmp_path / "model.safetensors").write_bytes(bytes(40 * MEGABYTE))
    (tmp_path / "adapter_model.bin").write_bytes(bytes(6 * MEGABYTE))
    before = identify(str(tmp_path)).fingerprint
    (tmp_path / "README.md").write_text("about it")
    (tmp_path / ".hidden.json").write_text("{}")
    (tmp_path / "optimizer.pt").write_bytes(b"state")
    assert identify(str(tmp_path)).fingerprint == before
    change(tmp_path)
    assert identify(str(tmp_path)).fingerprint != before


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-20", "checkpoint-best",
                 "torn-checkpoint-200", "checkpoint-300x"):  # fmt: skip
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-400").touch()
    found = checkpoints(tmp_path)
    assert [path.name for path in found] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert [checkpoint_step(path) for path in found] == [9, 20, 100]
    assert checkpoint_name(20) == "checkpoint-20"
    assert run_folder(found[0]) == run_folder(tmp_path) == tmp_path
    assert run_folder(tmp_path / "checkpoint-best") == tmp_path / "checkpoint-best"


def differences(*flags: str, inputs: Any = None, parents: Any = None) -> list[str]:
    """What changed since a run of `--beta 0.2 --max_steps 5` on two files and a parent."""
    earlier = resolve("dpo", ["--beta", "0.2", "--max_steps", "5"])
    run = new_run(
        "dpo", settings=earlier.values, sources=earlier.sources,
        inputs={"train": [A, B]}, parents=PARENTS,
    )  # fmt: skip
    return list(
        changes_since(
            run,
            settings=resolve("dpo", ["--max_steps", "5", *flags]),
            inputs={"train": [A, B]} if inputs is None else inputs,
            parents=PARENTS if parents is None else parents,
        )
    )


BETA = ("--beta", "0.2")
OTHER = Parent("runs/rm", "e" * 16, "rm")


def test_the_same_run_has_no_changes() -> None:
    assert differences(*BETA) == []
    moved = {"train": [Source("moved/a.jsonl", "aa"), Source("moved/b.jsonl", "bb")]}
    assert differences(*BETA, inputs=moved) == []
    assert differences(*BETA, parents={"model": Parent("moved", "f" * 16, None)}) == []
    assert differences(*BETA, "--logging_steps", "7", "--save_steps", "9", "--report_to", "none",
                       "--output_dir", "elsewhere", "--overwrite") == []  # fmt: skip


def test_changed_settings_are_named_with_both_values() -> None:
    assert differences("--beta", "0.3") == ["beta 0.2 -> 0.3"]
    assert differences() == ["beta 0.2 -> 0.1"], "a key that is no longer given"
    assert differences(*BETA, "--seed", "7") == ["seed 42 -> 7"], "a key that was not given before"


def test_changed_data_is_named_by_its_files() -> None:
    assert differences(*BETA, inputs={"train": [B, A]}) == ["train data changed: another order"]
    assert differences(*BETA, inputs={"train": [A]}) == ["train data changed: b.jsonl"]
    other = Source("data/b.jsonl", "cc")
    assert differences(*BETA, inputs={"train": [A, other]}) == ["train data changed: b.jsonl"]
    held_out = {"train": [A, B], "eval": [Source("c.jsonl", "cc")]}
    assert differences(*BETA, inputs=held_out) == ["eval data changed: c.jsonl"]
    assert differences(*BETA, inputs={}) == ["train data changed: a.jsonl, b.jsonl"]
    heavier = {"train": [Source("a.jsonl", "aa", weight=0.5), B]}
    assert differences(*BETA, inputs=heavier) == ["train data changed: a.jsonl"]


def test_a_setting_that_no_longer_exists_is_named() -> None:
    settings = resolve("dpo", ["--max_steps", "5"])
    run = new_run("dpo", settings=settings.values, sources=settings.sources, inputs={}, parents={})
    run.settings["old_key"] = {"value": 3, "source": "a.yaml"}
    assert list(changes_since(run, settings=settings, inputs={}, parents={})) == [
        "old_key 3 -> None"
    ]


def test_changed_added_and_missing_parents_are_named() -> None:
    assert differences(*BETA, parents={"model": OTHER}) == ["its model changed"]
    both = {**PARENTS, "reward_model": OTHER}
    assert differences(*BETA, parents=both) == ["its reward model changed"]
    assert differences(*BETA, parents={}) == ["its model changed"]


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
