"""kill -9 a stage at a random moment, resume it, compare with a run that nobody touched.

    python benchmarks/faults/kills.py --kills 200            # every stage, full and LoRA, a table
    python benchmarks/faults/kills.py --stage sft --kills 20
    python benchmarks/faults/kills.py --folder kills    # repeated, it goes on where it was ended

Each trial forks a process that has imported everything, so that a trial costs a second and not ten.
Of three kills one comes at a random moment of the run, one inside a save: as soon as a checkpoint
folder without its manifest is seen, and one is a power cut inside a save: what the run had not
brought to the disk by fsync is cut off every file. The resumed run must end in the same weights,
optimizer, random states and metrics, to the bit. So must a run in a process of its own, with
another order of hashes: what forks share hides nothing. Trials that failed stay in their folder.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignment.registry import STAGES

WORDS = ("one", "two", "three", "四", "five", "六", "seven", "八", "nine", "十")
#: Rows of each kind that stages read.
ROWS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": f"{word} is a number. {word} 是一个数。"} for word in WORDS],
    "sft": [{"prompt": f"say {word}", "completion": word} for word in WORDS],
    "preference": [{"prompt": f"say {word}", "chosen": word, "rejected": "no"} for word in WORDS],
    "unpaired": [
        {"prompt": f"say {word}", "completion": (word, "no")[i % 2], "label": i % 2 == 0}
        for i, word in enumerate(WORDS)
    ],
    "prompt": [{"prompt": f"say {word}"} for word in WORDS],
}
RECIPE = """\
max_steps: 8
save_steps: 1
save_total_limit: 3
logging_steps: 1
learning_rate: 1e-3
per_device_train_batch_size: 2
report_to: none
use_cpu: true
disable_tqdm: true
activation_checkpointing: false
seed: 7
"""
LORA = """\
use_peft: true
lora_r: 4
lora_alpha: 8
lora_target_modules: [q_proj, v_proj]
"""
#: What a stage needs besides.
EXTRA = {
    "ppo": """\
reward_model: kills:reward
max_completion_length: 6
steps_per_generation: 2
num_ppo_epochs: 2
"""
}
#: Seconds after which a resumed run, of a few seconds, will not end any more.
HANGS = 300
#: Wall-clock entries of a record; everything else must be equal.
CLOCKS = ("time", "runtime", "per_second", "seconds", "flos")


def reward(completions: list[Any], **_: Any) -> list[float]:
    """A rule for PPO: the shorter the better."""
    return [-float(len(completion[0]["content"])) for completion in completions]


def arguments(stage: str, folder: Path, model: Path, *, lora: bool) -> list[str]:
    """The command line of one small run in a folder."""
    data, recipe = folder.parent / f"{stage}.jsonl", folder.parent / f"{stage}.yaml"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[STAGES[stage].kind]]
    data.write_text("".join(lines), encoding="utf-8")
    parts = (RECIPE, LORA if lora else "", EXTRA.get(stage, ""))
    recipe.write_text("".join(parts), encoding="utf-8")
    words = [str(recipe), "--model_name_or_path", str(model), "--train_data", str(data)]
    return [*words, "--output_dir", str(folder)]


def start(stage: str, argv: list[str]) -> multiprocessing.Process:
    """Run a stage in a fork of this process, which has imported everything."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(stage, argv))
    process.start()
    return process


def _child(stage: str, argv: list[str]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    log = os.open(Path(argv[argv.index("--output_dir") + 1] + ".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)
    _note_syncs(Path(argv[argv.index("--output_dir") + 1] + ".synced"))
    _forget_random_states()
    from alignment.training.run import main

    main(stage, argv)


def _forget_random_states() -> None:
    """Begin as a process of its own does; forks would all draw the same where no seed is set."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.seed()


def _note_syncs(path: Path) -> None:
    """Write down what reaches the disk: a file's inode and its size at each fsync.

    An inode that is let go may come back as another file, of which nothing is on the disk yet.
    """
    notes = path.open("a", encoding="utf-8", buffering=1)
    fsync, unlink, replace = os.fsync, os.unlink, os.replace

    def forget(path: Any, folder: int | None = None) -> None:
        with suppress(OSError):
            found = os.stat(path, dir_fd=folder, follow_symlinks=False)
            if found.st_nlink == 1:
                notes.write(f"{found.st_ino} 0\n")

    def forgetting_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        forget(path, dir_fd)
        unlink(path, dir_fd=dir_fd)

    def forgetting_replace(source: Any, target: Any, **how: Any) -> None:
        forget(target, how.get("dst_dir_fd"))
        replace(source, target, **how)

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        found = os.fstat(descriptor)
        notes.write(f"{found.st_ino} {found.st_size}\n")

    os.fsync, os.replace = noted, forgetting_replace
    os.unlink = os.remove = forgetting_unlink


def cut_power(folder: Path) -> None:
    """Take from every file what was not on the disk when the power went."""
    lines = Path(f"{folder}.synced").read_text(encoding="utf-8").splitlines()
    sizes = {int(inode): int(size) for inode, size in (line.split() for line in lines)}
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, min(path.stat().st_size, sizes.get(path.stat().st_ino, 0)))


def fingerprints(folder: Path) -> dict[str, str]:
    """A digest of all that a finished run leaves, clocks taken out."""
    found = {}
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in [*folder.glob("*.safetensors"), *last.rglob("*")]:
        if path.suffix in {".safetensors", ".pt", ".pth"}:
            name = path.relative_to(folder).as_posix()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        row = {k: v for k, v in json.loads(line).items() if not any(c in k for c in CLOCKS)}
        if "loss" in row or "policy/entropy" in row:
            found[f"metrics of step {row['step']}"] = json.dumps(row, sort_keys=True)
    return found


def wait_for_random_moment(folder: Path, seconds: float, random_: random.Random) -> None:
    """Sleep somewhere within the time that a whole run takes."""
    time.sleep(random_.uniform(0, seconds))


def wait_for_a_save(folder: Path, seconds: float, random_: random.Random) -> None:
    """Wait until some checkpoint is being written, then a moment of up to 20 ms more."""
    wanted = random_.randint(1, 8)
    checkpoint = folder / f"checkpoint-{wanted}"
    end = time.monotonic() + 4 * seconds + 5
    while time.monotonic() < end and not checkpoint.exists():
        time.sleep(0.0005)
    time.sleep(random_.uniform(0, 0.02))


MOMENTS: dict[str, Callable[[Path, float, random.Random], None]] = {
    "random": wait_for_random_moment,
    "save": wait_for_a_save,
    "power": wait_for_a_save,
}


def trial(
    stage: str, model: Path, root: Path, *, lora: bool, moment: str, seconds: float, seed: int
) -> Counter[str]:
    """One kill and one resume; what happened, counted."""
    random_ = random.Random(seed)
    folder = root / f"{stage}-{moment}-{seed}"
    for leftover in root.glob(f"{folder.name}*"):  # of a trial that was cut short
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    argv = arguments(stage, folder, model, lora=lora)
    process = start(stage, argv)
    MOMENTS[moment](folder, seconds, random_)
    alive = process.is_alive()
    if process.pid and alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if moment == "power" and alive:
        cut_power(folder)
    again = start(stage, [*argv, "--resume"])
    again.join(HANGS)
    if again.is_alive():
        print(f"{folder.name}: the resumed run hangs", file=sys.stderr)
        again.kill()
        again.join()
    count = Counter(trials=1, killed=int(alive), crashed=int(again.exitcode != 0))
    count["torn"] = len(list(folder.glob("torn-*")))
    if again.exitcode == 0:
        mine = fingerprints(folder)
        reference = fingerprints(root / f"{stage}-reference")
        differing = sorted(
            key for key in {*mine, *reference} if mine.get(key) != reference.get(key)
        )
        count["different"] = int(bool(differing))
        if differing:
            print(f"{folder.name}: differs in {', '.join(differing[:6])}", file=sys.stderr)
    else:
        print(Path(f"{folder}.log").read_text(encoding="utf-8")[-800:], file=sys.stderr)
    if not count["crashed"] and not count["different"]:
        shutil.rmtree(folder)
    return count


def measure(
    stage: str, model: Path, root: Path, *, lora: bool, kills: int, seed: int = 0
) -> Counter[str]:
    """The reference run, then trials of one stage until ``kills`` found it alive; totals.

    Each trial is written to a ledger in ``root``, and not made again where it is found there.
    """
    seconds = _reference(stage, model, root, lora=lora)
    ledger = root / "ledger.jsonl"
    lines = ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else []
    done = {row.pop("trial"): Counter(row) for row in map(json.loads, lines)}
    total: Counter[str] = Counter()
    for number in range(2 * kills + len(MOMENTS)):
        if total["killed"] >= kills:
            break
        moment = tuple(MOMENTS)[(seed + number) % len(MOMENTS)]
        name = f"{moment} {seed + number}"
        if name not in done:
            done[name] = trial(
                stage, model, root, lora=lora, moment=moment, seconds=seconds, seed=seed + number
            )
            with ledger.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"trial": name, **done[name]}) + "\n")
        total += done[name]
    return total


def _reference(stage: str, model: Path, root: Path, *, lora: bool) -> float:
    """Make the run that nobody touches, where it is not there yet; the seconds that it took."""
    folder, clock = root / f"{stage}-reference", root / "seconds"
    if clock.exists():
        return float(clock.read_text(encoding="utf-8"))
    begin = time.monotonic()
    process = start(stage, [*arguments(stage, folder, model, lora=lora), "--overwrite"])
    process.join()
    seconds = time.monotonic() - begin
    if process.exitcode != 0:
        raise SystemExit(Path(f"{folder}.log").read_text(encoding="utf-8"))
    clock.write_text(str(seconds), encoding="utf-8")
    return seconds


def compare_with_fresh(stage: str, model: Path, root: Path, *, lora: bool) -> int:
    """Run once more as a user does, no fork and other hashes; 1 where it ends in other bits."""
    folder = root / f"{stage}-fresh"
    words = [*arguments(stage, folder, model, lora=lora), "--overwrite"]
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here.parent.parent), str(here)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "alignment", stage, *words],
        env={**os.environ, "PYTHONHASHSEED": "17", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        return 1
    same = fingerprints(folder) == fingerprints(root / f"{stage}-reference")
    if not same:
        print(f"{folder}: a run in a process of its own ends in other bits", file=sys.stderr)
    return int(not same)


def make_model(folder: Path) -> None:
    """The presets' smallest model is enough: files are torn, not weights."""
    from alignment.models.presets import init_model

    init_model("tiny", folder)


def main() -> None:
    """Run the trials asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=STAGES, action="append")
    parser.add_argument("--kills", type=int, default=200, help="of a stage, full and LoRA")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--folder", type=Path, help="keeps trials that failed, and what is done")
    options = parser.parse_args()
    preload()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    model = options.model or folder / "model"
    if not model.exists():
        make_model(model)
    print(f"{'stage':<12}{'trials':>7}{'kills':>8}{'torn':>6}{'crashes':>9}{'different':>11}")
    bad = 0
    for number, (stage, lora) in enumerate(itertools.product(STAGES, (False, True))):
        if options.stage and stage not in options.stage:
            continue
        root = folder / f"{stage}-lora" if lora else folder / stage
        root.mkdir(parents=True, exist_ok=True)
        seed = 10_000 * number  # other moments for each
        total = measure(stage, model, root, lora=lora, kills=options.kills // 2, seed=seed)
        total["different"] += compare_with_fresh(stage, model, root, lora=lora)
        name = f"{stage} LoRA" if lora else stage
        print(
            f"{name:<12}{total['trials']:>7}{total['killed']:>8}{total['torn']:>6}"
            f"{total['crashed']:>9}{total['different']:>11}",
            flush=True,
        )
        bad += total["crashed"] + total["different"]
    if bad:
        print(f"what failed is kept in {folder}", file=sys.stderr)
    elif options.folder is None:
        shutil.rmtree(folder)
    sys.exit(1 if bad else 0)


def preload() -> None:
    """Import once what every trial needs."""
    sys.path.insert(0, str(Path(__file__).parent))
    from alignment.models.imports import import_heavy

    import_heavy("alignment.training.trainers")
    import torch
    from tqdm import tqdm

    from alignment.settings.schema import schema_of

    torch.set_num_threads(1)
    # Its own lock is a semaphore that all forks share: one killed while it holds it stops them all.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    for name in ("ppo.trainer", "ppo.rewards", "training.arguments", "memory.preflight"):
        import_heavy(f"alignment.{name}")
    for stage in STAGES:
        schema_of(stage)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
