"""When a run may write into a folder, and where the run that was there goes."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import AlignError, ConfigError
from alignment.runs import folder as folders
from alignment.runs.files import holds_weights, model_files
from alignment.runs.folder import (
    check_output,
    delete_previous_runs,
    holds_results,
    previous_runs,
    set_aside,
)
from alignment.runs.lineage import describe_run, find_runs
from alignment.runs.record import Parent, Run, Source, load_run


def run_in(folder: Path, status: str = "finished", *, weights: bool = True, **more: Any) -> Run:
    run = Run(stage="sft", name=folder.name, fingerprint="abc", status=status, **more)
    run.write(folder)
    if weights:
        (folder / "model.safetensors").write_bytes(b"w")
    return run


def words_of(error: AlignError) -> str:
    return " ".join(str(error).split())


# Whether a folder may be written into


def test_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    assert check_output(tmp_path / "new", resume=False, overwrite=False) is None
    assert check_output(tmp_path, resume=False, overwrite=False) is None
    (tmp_path / ".run.json.x7.tmp").write_text("{")  # of a record that a kill left half written
    assert check_output(tmp_path, resume=False, overwrite=False) is None


@pytest.mark.parametrize("name", ["notes.txt", ".run.json.x7", "run.json.tmp", "x.run.json.1.tmp"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / ".run.json.x7.tmp").touch()
    (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        check_output(tmp_path, resume=False, overwrite=overwrite)
    told = words_of(caught.value)
    assert f"output_dir: {tmp_path}: not empty, and not a run of align" in told
    assert "choose another folder" in told


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        check_output(tmp_path / "file", resume=True, overwrite=True)
    told = words_of(caught.value)
    assert f"output_dir: {tmp_path}/file: is a file" in told
    assert "name a folder" in told


@pytest.mark.parametrize("status", ["finished", "running", "interrupted", "failed"])
def test_a_run_with_results_is_kept_unless_one_says_otherwise(tmp_path: Path, status: str) -> None:
    run = run_in(tmp_path, status)
    with pytest.raises(ConfigError) as caught:
        check_output(tmp_path, resume=False, overwrite=False)
    told = words_of(caught.value)
    assert f"output_dir: {tmp_path}: holds a sft run ({status})" in told
    assert (
        "continue it with --resume, replace it with --overwrite, or choose another output_dir"
    ) in told
    assert check_output(tmp_path, resume=True, overwrite=False) == run
    assert check_output(tmp_path, resume=False, overwrite=True) == run


@pytest.mark.parametrize(
    ("status", "left", "is_free"),
    [
        ("failed", None, True),
        ("failed", "metrics.jsonl", False),
        ("failed", "checkpoint-3", False),
        ("failed", "adapter_model.bin", False),
        ("interrupted", None, True),
        ("interrupted", "checkpoint-3", False),
        ("running", None, False),
    ],
)
def test_a_run_that_failed_before_its_first_step_is_replaced(
    tmp_path: Path, status: str, left: str | None, is_free: bool
) -> None:
    run_in(tmp_path, status, weights=False)
    if left:
        (tmp_path / left).mkdir() if left.startswith("checkpoint") else (tmp_path / left).touch()
    if is_free:
        assert check_output(tmp_path, resume=False, overwrite=False) is None
    else:
        with pytest.raises(ConfigError, match="holds a sft run"):
            check_output(tmp_path, resume=False, overwrite=False)


# Setting aside


def test_a_run_is_set_aside_under_the_next_number(tmp_path: Path) -> None:
    place = tmp_path / "a-b.c+"
    for number in (1, 2):
        run_in(place)
        assert set_aside(place) == tmp_path / f"a-b.c+.previous-{number}"
        assert not place.exists()
    run_in(tmp_path / "a-b.c+.previous-10")
    for other in (
        "a-bxc+.previous-77",
        "a-b.c+.previous-x",
        "a-b.c+.previous-3x",
        "a-b.cc.previous-50",
    ):
        run_in(tmp_path / other)
    (tmp_path / "a-b.c+.previous-30").mkdir()  # not a run
    assert [path.name for path in previous_runs(place)] == [
        f"a-b.c+.previous-{number}" for number in (1, 2, 10)
    ]
    run_in(place)
    assert set_aside(place) == tmp_path / "a-b.c+.previous-11"
    assert load_run(tmp_path / "a-b.c+.previous-11") is not None
    assert previous_runs(tmp_path / "none" / "sft") == []


def test_a_run_without_results_is_deleted_and_other_folders_stay(tmp_path: Path) -> None:
    place = tmp_path / "sft"
    run_in(place, "failed", weights=False)
    assert set_aside(place) is None
    assert list(tmp_path.iterdir()) == []
    place.mkdir()
    (place / "notes.txt").touch()
    assert set_aside(place) is None
    assert (place / "notes.txt").exists()


def test_a_checkpoint_is_a_result(tmp_path: Path) -> None:
    run_in(tmp_path, weights=False)
    assert not holds_results(tmp_path)
    (tmp_path / "checkpoint-1").mkdir()
    assert holds_results(tmp_path)


def test_what_a_kill_left_half_deleted_is_deleted_first(tmp_path: Path) -> None:
    place, trash = tmp_path / "sft", tmp_path / ".sft.deleting"
    trash.mkdir()
    (trash / "part").touch()
    run_in(place)
    assert set_aside(place) == tmp_path / "sft.previous-1"
    assert not trash.exists()


def test_a_link_stays_and_its_target_is_set_aside(tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "sft", tmp_path / "sft"
    run_in(target)
    link.symlink_to(target)
    assert set_aside(link) == tmp_path / "disk" / "sft.previous-1"
    assert link.is_symlink()
    run_in(link)
    assert load_run(target) is not None
    assert [path.name for path in previous_runs(link)] == ["sft.previous-1"]


def test_a_run_that_cannot_be_renamed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    run_in(tmp_path / "sft")
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ConfigError) as caught:
        set_aside(tmp_path / "sft")
    told = words_of(caught.value)
    assert "sft: the run in it cannot be set aside: Permission denied" in told
    assert "choose another output_dir, or move that run away yourself" in told


@pytest.mark.parametrize(
    ("status", "left"),
    [("finished", []), ("running", ["sft.previous-1", "sft.previous-2"]), (None, None)],
)
def test_previous_runs_are_deleted_once_the_new_one_is_finished(
    tmp_path: Path, status: str | None, left: list[str] | None
) -> None:
    place = tmp_path / "sft"
    for number in (1, 2):
        run_in(tmp_path / f"sft.previous-{number}")
    if status:
        run_in(place, status)
    delete_previous_runs(place)
    assert [path.name for path in previous_runs(place)] == (
        ["sft.previous-1", "sft.previous-2"] if left is None else left
    )
    assert not (tmp_path / ".sft.deleting").exists()
    assert place.exists() is (status is not None)


def test_a_previous_run_that_cannot_be_deleted_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError("busy")

    run_in(tmp_path / "sft")
    run_in(tmp_path / "sft.previous-1")
    monkeypatch.setattr(folders.shutil, "rmtree", refuse)
    delete_previous_runs(tmp_path / "sft")
    assert [record.getMessage() for record in caplog.records] == [
        "a previous run could not be deleted: busy"
    ]


# Files


@pytest.mark.parametrize(
    ("name", "weights", "counts"),
    [
        ("model.safetensors", True, True),
        ("model-00001-of-00002.safetensors", True, True),
        ("pytorch_model.bin", True, True),
        ("pytorch_model-00001-of-00002.bin", True, True),
        ("adapter_model.bin", True, True),
        ("training_args.bin", False, True),
        ("config.json", False, True),
        ("chat_template.jinja", False, True),
        ("tokenizer.model", False, True),
        ("vocab.tiktoken", False, True),
        ("modeling.py", False, True),
        ("merges.txt", False, True),
        ("additional_chat_templates/rag.jinja", False, True),
        ("optimizer.pt", False, False),
        ("README.md", False, False),
        (".hidden.json", False, False),
        ("sub/config.json", False, False),
    ],
)
def test_which_files_are_weights_and_which_decide(
    tmp_path: Path, name: str, weights: bool, counts: bool
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert holds_weights(tmp_path) is weights
    assert model_files(tmp_path) == ([path] if counts else [])


# Records


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings", []),
        ("metrics", 3),
        ("checks", "x"),
        ("inputs", []),
        ("inputs", {"train": [{"path": "a"}]}),
        ("inputs", {"train": [3]}),
        ("parents", {"model": {"path": "a"}}),
        ("parents", 3),
        ("unknown", 1),
    ],
)
def test_a_malformed_record_is_named_with_what_to_do(tmp_path: Path, key: str, value: Any) -> None:
    run_in(tmp_path, weights=False)
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ConfigError) as caught:
        load_run(tmp_path)
    told = words_of(caught.value)
    assert f"{path}: not a run record (" in told
    assert "delete the folder, or restore the file" in told


def test_a_record_of_an_earlier_version_has_layout_1(tmp_path: Path) -> None:
    run = run_in(tmp_path, weights=False, started=3.7)
    assert (run.layout, run.tracker_id) == (3, "sft-abc-3")
    path = tmp_path / "run.json"
    row = json.loads(path.read_text())
    del row["layout"]
    path.write_text(json.dumps(row))
    found = load_run(tmp_path)
    assert found is not None
    assert found.layout == 1
    assert found.tracker_id == "sft-abc-3"


def test_the_weight_of_a_source_is_part_of_its_content() -> None:
    assert Source("a", "aa").content == "aa"
    assert Source("a", "aa", weight=0.25).content == "aa:0.25"
    assert Source("a", "aa", weight=1.0).content == "aa:1"


# Lineage


def test_a_run_is_shown_by_its_first_headline_metric_and_other_parents(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run_in(
        root / "rm",
        started=2.0,
        metrics={"train_loss": 0.5, "eval_loss": None, "eval_accuracy": 0.123456},
        parents={
            "model": Parent("hub/base", "base@main", None),
            "reward_model": Parent("some/rm0", "0123456789abcdef", "rm"),
        },
    )
    run_in(root / "other", "failed", started=1.0)
    other, rm = find_runs(root)
    assert describe_run(rm, root) == (
        "sft  rm  finished  ·  eval_accuracy 0.1235  ·  abc  ·  reward_model rm0 01234567"
    )
    assert describe_run(other, root) == "sft  other  failed  ·  abc"
    (alone,) = find_runs(root / "rm")
    assert describe_run(alone, root / "rm").startswith(f"sft  {root / 'rm'}  finished")


def test_children_are_below_the_run_of_their_models_checkpoint(tmp_path: Path) -> None:
    run_in(tmp_path / "sft", started=1.0)
    checkpoint = tmp_path / "sft" / "checkpoint-3"
    checkpoint.mkdir()
    run_in(tmp_path / "dpo", started=2.0, parents={"model": Parent(str(checkpoint), "x", "sft")})
    gone = Parent(str(tmp_path / "gone"), "x", "sft")
    run_in(tmp_path / "kto", started=3.0, parents={"model": gone})
    first, second = find_runs(tmp_path)
    assert [node.folder.name for node in (first, *first.children, second)] == ["sft", "dpo", "kto"]
