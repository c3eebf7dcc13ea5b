"""Trackers behind one protocol: files first, and no failure of a tracker stops training."""

from __future__ import annotations

import ast
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import REPOSITORY, write_jsonl
from test_reliability import sft
from transformers import TrainerCallback

from alignment.runs.record import Run, load_run
from alignment.settings.trackers import TRACKERS, KnownTracker
from alignment.trackers.files import FileTracker
from alignment.trackers.integrations import IntegrationTracker
from alignment.trackers.multiplexer import Trackers
from alignment.training.run import run_stage

if TYPE_CHECKING:
    from alignment.trackers.base import TrainerEvent

LOST = "the tracker is gone\nand a second line"


class Memory:
    """A tracker that keeps what it gets, and fails where a test says so."""

    fails: str | None = None
    made: list[Memory]

    def __init__(self, name: str, run: Run, folder: Path) -> None:
        self.name = name
        self.run = run
        self.folder = folder
        self.calls: list[tuple[str, Any]] = []
        self.made.append(self)
        self._keep("open", None)

    def resume(self, *, step: int) -> None:
        self._keep("resume", step)

    def set_config(self, config: dict[str, Any]) -> None:
        self._keep("set_config", config)

    def log(self, numbers: dict[str, Any], *, step: int) -> None:
        written = self.folder.joinpath("metrics.jsonl").read_text().splitlines()
        self._keep("log", (step, json.loads(written[-1])["step"], numbers.pop("loss", None)))

    def log_table(self, name: str, rows: list[dict[str, Any]], *, step: int) -> None:
        self._keep("log_table", (name, step, rows))

    def on_event(self, event: TrainerEvent) -> None:
        self._keep(event.name, None)

    def finish(self, *, exit_code: int) -> None:
        self._keep("finish", exit_code)

    def _keep(self, call: str, value: Any) -> None:
        self.calls.append((call, value))
        if call == self.fails:
            raise ConnectionError(LOST)

    def got(self, call: str) -> list[Any]:
        return [value for name, value in self.calls if name == call]


class FailingCallback(TrainerCallback):
    """A callback as transformers has them, which fails at one event."""

    fails: str | None = None

    def __init__(self) -> None:
        self.events: list[str] = []

    def happen(self, event: str) -> None:
        self.events.append(event)
        if event == self.fails:
            raise ConnectionError(LOST)

    def on_init_end(self, *args: Any, **kwargs: Any) -> None:
        self.happen("on_init_end")

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.happen("on_train_begin")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.happen("on_step_end")

    def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
        self.happen("on_log")

    def on_evaluate(self, *args: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        self.happen("on_evaluate")

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.happen("on_save")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.happen("on_train_end")


class Integration(IntegrationTracker):
    """The adapter over transformers' callbacks, with that callback."""

    made: list[FailingCallback]

    def make_callback(self) -> TrainerCallback:
        callback = FailingCallback()
        self.made.append(callback)
        return callback


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more trackers, added as any tracker is: by a row in the table."""
    monkeypatch.setitem(TRACKERS, "memory", KnownTracker("", f"{__name__}:Memory"))
    monkeypatch.setitem(TRACKERS, "callback", KnownTracker("", f"{__name__}:Integration"))
    monkeypatch.setattr(Memory, "made", [], raising=False)
    monkeypatch.setattr(Integration, "made", [], raising=False)


def reporting_to(tracker: str, words: list[str]) -> list[str]:
    words[words.index("--report_to") + 1] = tracker
    return words


def steps(folder: Path) -> list[int]:
    lines = (folder / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]


def length_is_reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(completion[0]["content"])) for completion in completions]


def ppo(folder: Path, model: Path, *more: str) -> list[str]:
    rows = [{"prompt": f"say {word}"} for word in ("one", "two", "three", "four")]
    data = write_jsonl(folder / "prompts.jsonl", rows)
    return [
        "--model_name_or_path", str(model), "--train_data", str(data),
        "--reward_model", f"{__name__}:length_is_reward", "--output_dir", str(folder / "out"),
        "--report_to", "none", "--per_device_train_batch_size", "2", "--logging_steps", "1",
        "--max_completion_length", "8", "--steps_per_generation", "1", "--num_ppo_epochs", "1",
        "--use_cpu", "--disable_tqdm", "true", "--sample_steps", "1",
        "--activation_checkpointing", "false", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fails", "doing"),
    [
        ("open", "starting"),
        ("resume", "starting"),
        ("set_config", "setting the config"),
        ("log", "logging numbers"),
        ("on_init_end", "on_init_end"),
        ("on_train_begin", "on_train_begin"),
        ("on_step_end", "on_step_end"),
        ("on_save", "on_save"),
        ("on_train_end", "on_train_end"),
    ],
)
def test_a_tracker_that_fails_stops_nothing_and_is_reported_once(
    fails: str,
    doing: str,
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Memory, "fails", fails)
    words = sft(tmp_path, tiny_dir, "--max_steps", "3", "--save_steps", "1")
    run_stage("sft", reporting_to("memory", words))
    line = f"memory: {doing} failed and is left out from now on: the tracker is gone"
    assert reports(capsys, "memory: ") == [line]
    assert steps(tmp_path) == [1, 2, 3, 3]
    run = load_run(tmp_path / "out")
    assert run
    assert run.status == "finished"
    (tracker,) = Memory.made
    assert len(tracker.got(fails)) == 1
    if fails == "resume":
        assert {call for call, _ in tracker.calls} == {
            "open", "on_init_end", "on_train_begin", "resume", "finish"
        }  # fmt: skip
    elif fails not in ("open", "log"):
        assert len(tracker.got("log")) == 4


def reports(capsys: pytest.CaptureFixture[str], start: str) -> list[str]:
    printed = capsys.readouterr()
    return [line for line in (printed.out + printed.err).splitlines() if line.startswith(start)]


def test_a_tracker_that_cannot_finish_is_reported(
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Memory, "fails", "finish")
    run_stage("sft", reporting_to("memory", sft(tmp_path, tiny_dir, "--max_steps", "2")))
    assert reports(capsys, "memory: ") == ["memory: finishing failed: the tracker is gone"]
    assert Memory.made[0].got("finish") == [0]


def test_every_tracker_finishes_also_a_run_that_fails(tmp_path: Path, tiny_dir: Path) -> None:
    from alignment.errors import TrainingError

    words = sft(tmp_path, tiny_dir, "--learning_rate", "1e39", "--lr_scheduler_type", "constant")
    with pytest.raises(TrainingError):
        run_stage("sft", reporting_to("memory", words))
    assert Memory.made[0].got("finish") == [1]


def test_the_files_come_before_every_other_tracker(tmp_path: Path, tiny_dir: Path) -> None:
    words = sft(tmp_path, tiny_dir, "--max_steps", "3")
    run_stage("sft", reporting_to("memory", words))
    (tracker,) = Memory.made
    assert [(step, written) for step, written, _ in tracker.got("log")] == [
        (step, step) for step in (1, 2, 3, 3)
    ]
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("loss") for line in lines] == [x for *_, x in tracker.got("log")]
    run = load_run(tmp_path / "out")
    assert run
    (config,) = tracker.got("set_config")
    assert config["fingerprint"] == run.fingerprint
    assert config["settings"]["max_steps"] == 3
    assert list(config["inputs"]) == ["train"]


@pytest.mark.parametrize(
    "event",
    [
        "on_init_end", "on_train_begin", "on_step_end", "on_log", "on_evaluate", "on_save",
        "on_train_end",
    ],
)  # fmt: skip
def test_a_callback_of_transformers_that_fails_stops_nothing(
    event: str,
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(FailingCallback, "fails", event)
    words = sft(tmp_path, tiny_dir, "--max_steps", "2", "--save_steps", "1")
    run_stage("sft", [*reporting_to("callback", words), "--eval_fraction", "0.2"])
    (line,) = reports(capsys, "callback: ")
    assert line.endswith(": the tracker is gone")
    assert steps(tmp_path) == [1, 2, 2, 2]
    (callback,) = Integration.made
    assert callback.events.count(event) == 1


def test_a_callback_of_transformers_ends_after_the_last_evaluation(
    tmp_path: Path, tiny_dir: Path
) -> None:
    words = sft(tmp_path, tiny_dir, "--max_steps", "1", "--save_strategy", "no")
    run_stage("sft", [*reporting_to("callback", words), "--eval_fraction", "0.2"])
    assert Integration.made[0].events == [
        "on_init_end", "on_train_begin", "on_step_end", "on_log", "on_log", "on_log",
        "on_evaluate", "on_train_end",
    ]  # fmt: skip


def refuse(*args: Any, **kwargs: Any) -> None:
    raise ConnectionError(LOST)


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        ("wandb.init", "W&B: starting failed and is left out from now on: the tracker is gone"),
        ("config", "W&B: setting the config failed and is left out from now on: the tracker is g"),
        ("wandb.Run.log", "W&B: logging numbers failed and is left out from now on: the tracker"),
        ("wandb.Table", "W&B: logging tables failed and is left out from now on: the tracker is"),
        ("wandb.finish", "W&B: finishing failed: the tracker is gone; to send it: wandb sync "),
    ],
)
def test_wherever_wandb_fails_ppo_goes_on_and_reports_it_once(
    fails: str,
    line: str,
    own_wandb: None,
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    import wandb

    finish = wandb.finish
    if fails == "config":
        update = wandb.Config.update

        def refuse_lineage(self: Any, found: dict[str, Any], *args: Any, **keys: Any) -> None:
            refuse() if "fingerprint" in found else update(self, found, *args, **keys)

        monkeypatch.setattr(wandb.Config, "update", refuse_lineage)
    else:
        monkeypatch.setattr(fails, refuse)
    words = ppo(tmp_path, tiny_dir, "--max_steps", "2", "--save_strategy", "no")
    run_stage("ppo", reporting_to("wandb", words))
    finish()  # a run that stays open would write into the tests after this one
    found = reports(capsys, "W&B: ")
    # Numbers and tables are logged by one function of W&B, so both kinds of call fail with it.
    assert len(found) == (2 if fails == "wandb.Run.log" else 1)
    assert found[-1].startswith(line)
    assert steps(tmp_path) == [1, 2, 2]
    samples = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in samples] == [0, 0, 1, 1]
    run = load_run(tmp_path / "out")
    assert run
    assert run.status == "finished"


def test_samples_and_alarms_are_tables_of_every_tracker(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ppo(tmp_path, tiny_dir, "--max_steps", "4", "--save_strategy", "no")
    words += ["--alarm_patience", "1", "--target_kl", "1e-6", "--learning_rate", "0.1"]
    run_stage("ppo", reporting_to("memory", words))
    (tracker,) = Memory.made
    tables = tracker.got("log_table")
    assert {name for name, *_ in tables} == {"samples", "alarms"}
    for name in ("samples", "alarms"):
        lines = (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
        assert list(map(json.loads, lines)) == [
            {"step": step, **row} for table, step, rows in tables for row in rows if table == name
        ]
    alarms = [row["message"] for name, _, rows in tables for row in rows if name == "alarms"]
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-2])
    assert last["alarms/count"] == len(alarms) > 0


def test_tables_that_fail_leave_the_numbers_alone(
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Memory, "fails", "log_table")
    words = ppo(tmp_path, tiny_dir, "--max_steps", "3", "--save_strategy", "no")
    run_stage("ppo", reporting_to("memory", words))
    (tracker,) = Memory.made
    assert len(tracker.got("log_table")) == 1
    assert [step for step, *_ in tracker.got("log")] == [1, 2, 3, 3]
    assert len(reports(capsys, "memory: ")) == 1
    samples = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in samples] == [0, 0, 1, 1, 2, 2]


def test_a_resumed_run_continues_its_trackers_and_repeats_no_sample(
    tmp_path: Path, tiny_dir: Path
) -> None:
    words = ppo(tmp_path, tiny_dir, "--max_steps", "3", "--save_steps", "1")
    run_stage("ppo", reporting_to("memory", words))
    out = tmp_path / "out"
    samples = (out / "samples.jsonl").read_text()
    numbers = [without_time(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    run = load_run(out)
    assert run
    run.status = "running"  # as a killed run leaves it
    run.write(out)
    (out / "checkpoint-3" / "trainer_state.json").unlink()
    run_stage("ppo", [*words, "--resume"])
    first, second = Memory.made
    assert (first.got("resume"), second.got("resume")) == ([0], [2])
    assert first.run.tracker_id == second.run.tracker_id
    assert (out / "samples.jsonl").read_text() == samples
    again = [without_time(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert again[:3] == numbers[:3]


def without_time(line: str) -> dict[str, Any]:
    """What a run logs anew when it repeats a step."""
    return {k: v for k, v in json.loads(line).items() if "time" not in k and "per_second" not in k}


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Limit the size of every file that is written, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_that_the_disk_refuses_are_written_with_the_next(
    tmp_path: Path, file_limit: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    trackers = Trackers(FileTracker(tmp_path))
    path = tmp_path / "metrics.jsonl"
    trackers.log({"loss": 1.0}, step=1)
    whole = path.read_bytes()
    file_limit(len(whole) + 10)
    for step in (2, 3):
        trackers.log({"loss": 1.0 / step}, step=step)
        assert path.read_bytes() == whole, "no part of a line"
    file_limit(resource.RLIM_INFINITY)
    line = "metrics.jsonl: logging numbers failed and is tried again with the next line: "
    assert reports(capsys, "metrics.jsonl: ") == [f"{line}[Errno 27] File too large"]
    trackers.log({"loss": 0.25}, step=4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_files_that_cannot_be_written_stop_nothing(
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "out" / "metrics.jsonl"

    def block(tracker: Memory, *, step: int) -> None:
        path.mkdir()

    def unblock(tracker: Memory, numbers: dict[str, Any], *, step: int) -> None:
        if step == 2 and path.is_dir():
            path.rmdir()

    monkeypatch.setattr(Memory, "resume", block)
    monkeypatch.setattr(Memory, "log", unblock)
    run_stage("sft", reporting_to("memory", sft(tmp_path, tiny_dir, "--max_steps", "3")))
    assert len(reports(capsys, "metrics.jsonl: ")) == 1
    assert steps(tmp_path) == [1, 2, 3, 3]


def test_trackers_are_opened_in_the_main_process_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers = Trackers(None)
    trackers.open(["memory"], Run("sft", "sft", "f"), tmp_path)
    trackers.log({"loss": 1.0}, step=1)
    assert Memory.made == []
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_a_resumed_run_as_one(tmp_path: Path, tiny_dir: Path) -> None:
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    words = ppo(tmp_path, tiny_dir, "--max_steps", "3", "--save_steps", "1")
    run_stage("ppo", reporting_to("tensorboard", words))
    run = load_run(tmp_path / "out")
    assert run
    run.status = "running"
    run.write(tmp_path / "out")
    (tmp_path / "out" / "checkpoint-3" / "trainer_state.json").unlink()
    run_stage("ppo", [*words, "--resume"])
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert folder.name == run.tracker_id
    found = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in found.Tensors("train/objective/kl")] == [1, 2, 3]
    tables = found.Tensors("samples/text_summary")
    assert [event.step for event in tables] == [1, 2, 3]
    assert b"| prompt | completion | score | kl |" in tables[0].tensor_proto.string_val[0]
    assert (
        run.fingerprint.encode()
        in found.Tensors("lineage/text_summary")[0].tensor_proto.string_val[0]
    )


def test_wandb_is_imported_by_its_tracker_alone() -> None:
    found = set()
    for path in (REPOSITORY / "alignment").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) and any(a.name.startswith("wandb") for a in node.names):
                found.add(path.relative_to(REPOSITORY))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wandb"):
                found.add(path.relative_to(REPOSITORY))
            if isinstance(node, ast.Constant) and node.value == "wandb":
                found.add(path.relative_to(REPOSITORY))
    assert found == {Path("alignment/settings/trackers.py"), Path("alignment/trackers/wandb.py")}
