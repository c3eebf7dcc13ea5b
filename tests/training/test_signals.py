"""Signals to a stage in each of its phases: what it leaves, what it prints, how it ends."""

import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support import REPOSITORY, write_jsonl
from torch.utils.data import DataLoader

from alignment.errors import Interrupted
from alignment.processes import leave_signals_to_parent, other_kind
from alignment.runs.record import load_run
from alignment.stages import sft
from alignment.training.run import main
from alignment.training.signals import StopSignals

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def words(folder: Path, model: Path, *flags: str) -> list[str]:
    data = write_jsonl(folder / "data.jsonl", [{"prompt": "say", "completion": "one"}] * 4)
    given = ["--model_name_or_path", str(model), "--train_data", str(data), "--use_cpu"]
    given += ["--output_dir", str(folder / "out"), "--report_to", "none", "--max_steps", "1"]
    return [*given, "--per_device_train_batch_size", "2", "--disable_tqdm", "true", *flags]


def send(number: int) -> None:
    """Send a signal to this process, and let Python call its handler."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("ignored", "number", "sent"),
    [
        ([], signal.SIGTERM, signal.SIGINT),
        ([], signal.SIGINT, signal.SIGTERM),
        ([], signal.SIGHUP, signal.SIGTERM),
        ([signal.SIGINT], signal.SIGTERM, signal.SIGTERM),  # else a job in the background runs on
    ],
)
def test_a_stage_gets_a_signal_that_it_hears(
    ignored: list[signal.Signals],
    number: signal.Signals,
    sent: signal.Signals,
) -> None:
    before = {one: signal.signal(one, signal.SIG_IGN) for one in ignored}
    try:
        assert other_kind(number) is sent
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_while_loading_ends_the_stage_at_once(
    number: signal.Signals,
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(job: Any) -> None:
        try:
            send(number)
        except Exception:  # as libraries do, which try something else then
            pytest.fail("a library can swallow the signal")
        pytest.fail("the stage went on")

    monkeypatch.setattr(sft, "run", load)
    with pytest.raises(SystemExit) as ended:
        main("sft", words(tmp_path, tiny_dir))
    assert ended.value.code == 128 + number
    line = f"sft: ended by {number.name} while loading; the same command starts it again"
    assert capsys.readouterr().err.splitlines() == [line]
    assert not (tmp_path / ".out.lock").exists()
    run = load_run(tmp_path / "out")
    assert run is not None
    assert run.status == "interrupted"

    monkeypatch.setattr(sft, "run", lambda job: None)
    main("sft", words(tmp_path, tiny_dir))  # the same command does start it again
    assert load_run(tmp_path / "out").status == "finished"  # type: ignore[union-attr]


def test_a_signal_while_the_model_is_saved_lets_the_run_be_finished(
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from alignment.training.trainers import PreparedSFTTrainer

    real = PreparedSFTTrainer.save_model

    def save(trainer: Any, folder: str, *rest: Any, **more: Any) -> None:
        if folder == str(tmp_path / "out"):
            send(signal.SIGTERM)
        real(trainer, folder, *rest, **more)

    monkeypatch.setattr(PreparedSFTTrainer, "save_model", save)
    with pytest.raises(SystemExit) as ended:
        main("sft", words(tmp_path, tiny_dir))
    assert ended.value.code == 143
    told = capsys.readouterr().err
    assert "sft: ended by SIGTERM while the model was saved; the run is finished\n" in told
    run = load_run(tmp_path / "out")
    assert run is not None
    assert run.status == "finished"
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("number", NUMBERS)
def test_signals_are_handled_as_before_once_a_stage_is_over(number: signal.Signals) -> None:
    before, signals = signal.getsignal(number), StopSignals()
    with pytest.raises(Interrupted) as ended, signals.handled():
        send(number)
    assert ended.value.number == number
    assert signal.getsignal(number) == before


def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    """`nohup` ignores SIGHUP."""
    before, signals = signal.signal(signal.SIGHUP, signal.SIG_IGN), StopSignals()
    try:
        with signals.handled():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signals.came is None


def test_after_defer_a_signal_is_only_noted_and_the_first_one_counts() -> None:
    signals = StopSignals()
    signals.defer()
    signals.check("never")
    with signals.handled():
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            send(number)
    assert signals.came == signal.SIGHUP
    with pytest.raises(Interrupted, match=r"^ended by SIGHUP with its step$"):
        signals.check("with its step")


def program(text: str) -> list[str]:
    head = "import os, signal, time\nfrom alignment.training.signals import StopSignals\n"
    return [sys.executable, "-c", f"{head}signals = StopSignals()\nsignals.defer()\n{text}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_one_ends_at_once(number: signal.Signals) -> None:
    """Which a user sends who cannot wait for the step.

    The kernel may send SIGTERM several times at once, if a parent with several threads is killed.
    """
    twice = f"""
with signals.handled():
    os.kill(os.getpid(), {int(number)})
    print("alive", signals.came, flush=True)
    {"os.kill(os.getpid(), 15)" if number == signal.SIGTERM else ""}
    time.sleep({2.1 if number == signal.SIGTERM else 0})
    print("alive", signals.came, flush=True)
    os.kill(os.getpid(), {int(number)})
    print("still alive", flush=True)
"""
    done = subprocess.run(program(twice), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == f"alive {int(number)}\n" * 2
    assert done.returncode == -number


def test_a_forked_worker_dies_of_sigterm_and_leaves_the_others_to_its_parent() -> None:
    """DataLoader's workers get Ctrl-C too; a pool ends its workers by SIGTERM."""
    forked = """
with signals.handled():
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status), signals.came)
"""
    done = subprocess.run(program(forked), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == f"{int(signal.SIGTERM)} None\n"


def test_a_closed_terminal_does_not_break_what_is_still_printed(tmp_path: Path) -> None:
    """After SIGHUP every write to the terminal is an error, which must not stop the saving."""
    closed = f"""
import time
from pathlib import Path
with signals.handled():
    print("started", flush=True)
    while signals.came is None:
        time.sleep(0.01)
    print("saving", flush=True)
    Path({str(tmp_path / "saved")!r}).write_text(str(signals.came))
"""
    child, terminal = pty.fork()
    if not child:
        os.chdir(REPOSITORY)
        words = program(closed)
        os.execv(words[0], words)
    assert os.read(terminal, 7) == b"started"
    os.close(terminal)  # the kernel sends SIGHUP
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGHUP))


class Rows:
    """Rows of which the first one ends its worker, unless that leaves signals to its parent."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> int:
        if row == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return row


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names the sender")
def test_a_worker_of_a_loader_ends_only_when_its_parent_ends_it() -> None:
    initialize = partial(leave_signals_to_parent, None)
    rows: Any = Rows()
    loader = DataLoader(rows, batch_size=None, num_workers=1, worker_init_fn=initialize)
    assert list(loader) == [0, 1, 2]
    worker = multiprocessing.get_context("fork").Process(target=initialize_and_wait)
    worker.start()
    worker.join(1)
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def test_training_sets_this_for_its_loader(tmp_path: Path, tiny_dir: Path) -> None:
    """Each row sends SIGTERM to the worker that reads it."""
    flags = ["--dataloader_num_workers", "1", "--preflight", "false"]
    flags += ["--eval_data", str(tmp_path / "data.jsonl")]
    with pytest.MonkeyPatch.context() as patched:
        before = Dataset.__getitems__

        def terminate(rows: Any, keys: Any) -> Any:
            if multiprocessing.parent_process() is not None:
                os.kill(os.getpid(), signal.SIGTERM)
            return before(rows, keys)

        patched.setattr(Dataset, "__getitems__", terminate)
        main("sft", words(tmp_path, tiny_dir, *flags))
    run = load_run(tmp_path / "out")
    assert run is not None
    assert run.status == "finished"


def initialize_and_wait() -> None:
    leave_signals_to_parent(None, 0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
