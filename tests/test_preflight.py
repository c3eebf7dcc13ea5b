"""The longest batch before step 1: it leaves no trace, and too little memory is known in time."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE, REPOSITORY, write_jsonl

from alignment.errors import ConfigError
from alignment.memory.batch_size import keep_effective_batch, next_smaller, sizes_after, use_found
from alignment.memory.longest_batch import token_counts
from alignment.memory.restore import state_bytes
from alignment.registry import STAGES
from alignment.runs.record import load_run
from alignment.training.checkpoints import find_fault
from alignment.training.run import main, run_stage

WORDS = ["one", "two", "three", "四", "五", "六", "seven", "八", "nine", "ten", "eleven"]
ROWS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": f"{word} is a number. {word} 是一个数。"} for word in WORDS],
    "sft": [{"prompt": f"say {word}", "completion": word * 3} for word in WORDS],
    "preference": [{"prompt": f"say {word}", "chosen": word, "rejected": "no"} for word in WORDS],
    "unpaired": [
        {"prompt": f"say {word}", "completion": word, "label": i % 2 == 0}
        for i, word in enumerate(WORDS)
    ],
    "prompt": [{"prompt": f"say {word}"} for word in WORDS],
}
LORA = ("--use_peft", "--lora_r", "4", "--lora_alpha", "8", "--lora_dropout", "0.5")
PPO = ("--max_completion_length", "8", "--steps_per_generation", "2", "--num_ppo_epochs", "2")


def count_letters(completions: list[Any], **_: Any) -> list[float]:
    """A reward: the shorter the better."""
    return [-float(len(completion[0]["content"])) for completion in completions]


def words(stage: str, folder: Path, model: Path, *more: str) -> list[str]:
    """The command line of a small run."""
    folder.mkdir(exist_ok=True)
    data = write_jsonl(folder / "data.jsonl", ROWS[STAGES[stage].kind])
    found = ["--model_name_or_path", str(model), "--train_data", str(data), "--use_cpu"]
    found += ["--output_dir", str(folder / "out"), "--report_to", "none", "--disable_tqdm", "true"]
    found += ["--max_steps", "4", "--learning_rate", "1e-3", "--logging_steps", "1", "--seed", "7"]
    if "--per_device_train_batch_size" not in more:
        found += ["--per_device_train_batch_size", "2"]
    if STAGES[stage].samples:
        found += ["--reward_model", f"{__name__}:count_letters", *PPO]
    return [*found, *more]


def outcome(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything that a run leaves in bits, and its metrics without the time."""
    run = folder / "out"
    files = [*run.glob("*.safetensors"), *run.glob("checkpoint-*/*")]
    kept = (".safetensors", ".pt", ".pth")
    bits = {str(p.relative_to(run)): p.read_bytes() for p in files if p.suffix in kept}
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    timed = ("time", "runtime", "per_second", "step_time")
    metrics = [
        {k: v for k, v in json.loads(line).items() if not any(word in k for word in timed)}
        for line in lines
    ]
    return bits, metrics


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("pt", ()),
        ("sft", ("--gradient_accumulation_steps", "2", "--neftune_noise_alpha", "5")),
        ("sft", (*LORA, "--packing", "--max_length", "32")),
        ("sft", ("--activation_checkpointing", "--eval_fraction", "0.2", "--eval_on_start")),
        ("rm", LORA),
        ("dpo", LORA),
        ("kto", ("--gradient_accumulation_steps", "2")),
        ("ppo", ("--gradient_accumulation_steps", "2", "--critic_warmup_steps", "1")),
        ("ppo", (*LORA, "--critic", "lora")),
        ("ppo", ("--critic", "model", "--beta", "0")),
    ],
)
def test_no_bit_of_a_run_changes(
    stage: str, more: tuple[str, ...], tmp_path: Path, tiny_dir: Path
) -> None:
    for name, flag in (("with", "true"), ("without", "false")):
        given = words(stage, tmp_path / name, tiny_dir, "--preflight", flag, *more)
        run_stage(stage, [*given, "--save_steps", "2"])
    bits, metrics = outcome(tmp_path / "with")
    assert (bits, metrics) == outcome(tmp_path / "without")
    assert any("optimizer.pt" in name for name in bits)
    run = load_run(tmp_path / "with" / "out")
    assert run is not None
    assert run.checks["preflight"]["tokens"] > 4


def test_rows_that_are_shuffled_are_not_named_as_those_of_the_file(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stage("kto", words("kto", tmp_path, tiny_dir))
    assert "(shuffled rows " in capsys.readouterr().out


def test_no_bit_changes_over_a_resume(tmp_path: Path, tiny_dir: Path) -> None:
    for stage in ("sft", "ppo"):
        for name, flag in (("with", "true"), ("without", "false")):
            folder = tmp_path / stage / name
            folder.parent.mkdir(exist_ok=True)
            given = words(stage, folder, tiny_dir, "--preflight", flag, "--save_steps", "1", *LORA)
            run_stage(stage, given)
            cut_short(folder / "out", step=3)
            run_stage(stage, [*given, "--resume"])
        assert outcome(tmp_path / stage / "with") == outcome(tmp_path / stage / "without")


def cut_short(run: Path, *, step: int) -> None:
    """Undo what came after a step, as a kill would have left it."""
    for path in run.glob("checkpoint-*"):
        if int(path.name.partition("-")[2]) > step:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    for path in run.glob("*.safetensors"):
        path.unlink()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "running"}))


# Too little memory

PAIRS = [
    {"prompt": "say", "chosen": chr(97 + i % 26) * (400 if i % 3 else 3), "rejected": "no"}
    for i in range(48)
]
#: What 24 of the longest pairs need is far over it, what one needs far below.
ROOM = 40


def pairs(folder: Path, model: Path, *more: str) -> list[str]:
    """The flags of a reward model on pairs of which two thirds are long."""
    data = write_jsonl(folder / "pairs.jsonl", PAIRS)
    found = ["--model_name_or_path", str(model), "--train_data", str(data), "--use_cpu"]
    found += ["--output_dir", str(folder / "out"), "--report_to", "none", "--disable_tqdm", "true"]
    found += ["--activation_checkpointing", "false", "--max_steps", "3", "--logging_steps", "1"]
    found += ["--per_device_eval_batch_size", "1"]  # what measures a reward model at the end
    if "--per_device_train_batch_size" not in more:
        found += ["--per_device_train_batch_size", "24"]
    return [*found, *more]


def short(
    stage: str, flags: list[str], *, ranks: str = "0", room: int = ROOM, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run a stage with so little memory in some of its processes."""
    launcher = [sys.executable, "-W", "ignore"]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    tests = REPOSITORY / "tests"
    environment = os.environ | {
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tests}",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",  # else each thread maps 64 MB more
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }
    command = [*launcher, str(tests / "short_of_memory.py"), str(room), ranks, stage, *flags]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_too_little_memory_is_reported_before_step_1(tmp_path: Path, tiny_dir: Path) -> None:
    flags = pairs(tmp_path, tiny_dir)
    done = short("rm", flags)
    told = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert done.returncode == 2
    assert told == [
        "error: out of memory before step 1: 24 rows of up to 421 tokens (pairs.jsonl rows 2, 3, "
        "5, 6, 8, ...) need more memory than this device has",
        "  set per_device_train_batch_size 12 with gradient_accumulation_steps 2, "
        "activation_checkpointing, a smaller max_length or auto_find_batch_size",
    ]
    run = load_run(tmp_path / "out")
    assert run is not None
    assert run.status == "failed"
    assert "out of memory before step 1" in str(run.error)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["run.json"]
    ways = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "12"]
    again = short("rm", pairs(tmp_path, tiny_dir, *ways))  # what was told, into the same folder
    assert again.returncode == 0, again.stderr[-3000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> tuple[Path, int]:
    """A run that found its batch size under a shortage, and that size."""
    folder = tmp_path_factory.mktemp("found")
    flags = pairs(folder, tiny_dir, "--auto_find_batch_size", "--save_steps", "1")
    done = short("rm", flags)
    assert done.returncode == 0, done.stderr[-3000:]
    run = load_run(folder / "out")
    assert run is not None
    size = run.checks["batch"]["per_device_train_batch_size"]
    assert run.checks["batch"]["gradient_accumulation_steps"] * size == 24
    assert size < 24
    assert f"per_device_train_batch_size 24 -> {size}, gradient_accumul" in done.stdout
    assert "the effective batch stays 24" in done.stdout
    return folder, size


def test_a_size_that_was_found_gives_what_the_same_size_gives_when_asked_for(
    found: tuple[Path, int], tmp_path: Path, tiny_dir: Path
) -> None:
    folder, size = found
    asked = ["--per_device_train_batch_size", str(size)]
    asked += ["--gradient_accumulation_steps", str(24 // size), "--save_steps", "1"]
    run_stage("rm", pairs(tmp_path, tiny_dir, *asked))
    assert outcome(folder) == outcome(tmp_path)


def test_a_size_that_was_found_gives_the_large_batch_within_rounding(
    found: tuple[Path, int], tmp_path: Path, tiny_dir: Path
) -> None:
    from safetensors.torch import load_file

    run_stage("rm", pairs(tmp_path, tiny_dir))
    small = load_file(found[0] / "out" / "model.safetensors")
    large = load_file(tmp_path / "out" / "model.safetensors")
    start = load_file(tiny_dir / "model.safetensors")
    moved = max((large[k] - start[k]).abs().max().item() for k in start if k in large)
    assert moved > 1e-4
    for name, x in large.items():
        torch.testing.assert_close(small[name], x, atol=moved / 1000, rtol=1e-5)


def test_a_resumed_run_goes_on_with_the_size_that_was_found(
    found: tuple[Path, int], tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, size = found
    before = outcome(folder)
    shutil.copytree(folder, tmp_path / "run")
    cut_short(tmp_path / "run" / "out", step=2)
    flags = pairs(tmp_path / "run", tiny_dir, "--auto_find_batch_size", "--save_steps", "1")
    run_stage("rm", [*flags, "--resume"])  # with memory enough for the whole batch
    assert f"preflight: {size} row" in capsys.readouterr().out
    bits, metrics = outcome(tmp_path / "run")
    assert bits == before[0]
    assert metrics[:-1] == before[1][:-1]  # the last line sums up what this part of it did


def test_where_not_even_one_row_fits_it_is_reported(tmp_path: Path, tiny_dir: Path) -> None:
    rows = [{"prompt": "say", "completion": letter * 480} for letter in "abcd"]
    flags = words("sft", tmp_path, tiny_dir, "--auto_find_batch_size")
    write_jsonl(tmp_path / "data.jsonl", rows)
    done = short("sft", [*flags, "--activation_checkpointing", "false"], room=8)
    told = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert done.returncode == 2
    assert told == [
        "error: out of memory before step 1: 1 row of up to 501 tokens (data.jsonl row 1) need "
        "more memory than this device has",
        "  set activation_checkpointing, use_peft or a smaller max_length",
    ]


def test_ppo_finds_a_size_for_its_update_and_keeps_the_rollout(
    tmp_path: Path, tiny_dir: Path
) -> None:
    long = ["--max_completion_length", "200", "--per_device_train_batch_size", "48"]
    long += ["--auto_find_batch_size", "--max_steps", "2", "--activation_checkpointing", "false"]
    flags = words("ppo", tmp_path, tiny_dir, *long, "--num_ppo_epochs", "1")
    write_jsonl(tmp_path / "data.jsonl", [{"prompt": f"say {n}"} for n in range(100)])
    done = short("ppo", flags, room=60)
    assert done.returncode == 0, done.stderr[-3000:]
    run = load_run(tmp_path / "out")
    assert run is not None
    size = run.checks["batch"]["per_device_train_batch_size"]
    assert size < 48
    assert run.checks["batch"] == {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": 48 // size,
        "steps_per_generation": 2 * 48 // size,
    }
    asked = ["--per_device_train_batch_size", str(size), "--preflight", "false"]
    asked += ["--gradient_accumulation_steps", str(48 // size)]
    asked += ["--steps_per_generation", str(2 * 48 // size)]
    flags = [flag if flag != str(tmp_path / "out") else f"{flag}-asked" for flag in flags]
    flags.remove("--auto_find_batch_size")
    run_stage("ppo", [*flags, *asked])
    (tmp_path / "asked").mkdir()
    (tmp_path / "out-asked").rename(tmp_path / "asked" / "out")
    assert outcome(tmp_path) == outcome(tmp_path / "asked")


def hungry(completions: list[Any], *, trainer_state: Any, **_: Any) -> list[float]:
    """A reward that asks for a petabyte once the run is at step 2."""
    torch.empty(2**50 if trainer_state.global_step == 2 else 1, dtype=torch.uint8)
    return count_letters(completions)


def test_memory_that_runs_out_later_is_reported_in_two_lines(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = words("ppo", tmp_path, tiny_dir, "--num_ppo_epochs", "1", "--save_steps", "1")
    flags[flags.index(f"{__name__}:count_letters")] = f"{__name__}:hungry"
    with pytest.raises(SystemExit) as end:
        main("ppo", flags)
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert told[told.index("error: ") :].splitlines() == [
        "error: step 3: out of memory",
        "  start again with --overwrite --per_device_train_batch_size 1 "
        "--gradient_accumulation_steps 2 --steps_per_generation 4",
    ]
    run = load_run(tmp_path / "out")
    assert run is not None
    assert run.status == "failed"
    assert find_fault(tmp_path / "out" / "checkpoint-2") is None


def test_one_process_that_is_short_halves_the_batch_of_both(tmp_path: Path, tiny_dir: Path) -> None:
    flags = pairs(tmp_path, tiny_dir, "--auto_find_batch_size")
    done = short("rm", flags, ranks="1", room=100, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    run = load_run(tmp_path / "out")
    assert run is not None
    size = run.checks["batch"]["per_device_train_batch_size"]
    assert size < 24
    assert run.checks["batch"]["gradient_accumulation_steps"] * size == 24
    (tmp_path / "asked").mkdir()
    asked = ["--per_device_train_batch_size", str(size)]
    asked += ["--gradient_accumulation_steps", str(24 // size)]
    asked = pairs(tmp_path / "asked", tiny_dir, *asked, "--preflight", "false")
    done = short("rm", asked, ranks="none", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert outcome(tmp_path) == outcome(tmp_path / "asked")


# Sizes


@given(st.integers(1, 10_000))
def test_sizes_go_down_by_divisors_to_one(size: int) -> None:
    passed = [size]
    while (smaller := next_smaller(passed[-1])) is not None:
        passed.append(smaller)
    assert passed[-1] == 1
    assert all(a % b == 0 and b <= a // 2 for a, b in itertools.pairwise(passed))


def test_the_effective_batch_and_the_rollout_stay() -> None:
    args = SimpleNamespace(
        per_device_train_batch_size=12, gradient_accumulation_steps=2, steps_per_generation=4
    )
    expected = sizes_after(args, 4)
    keep_effective_batch(args, 4)
    assert vars(args) == expected
    assert list(vars(args).values()) == [4, 6, 12]
    use_found(args, {"per_device_train_batch_size": 3})  # does not divide 4: another run's
    assert args.per_device_train_batch_size == 4
    with pytest.raises(ValueError, match="3 does not divide 4"):
        keep_effective_batch(args, 3)


def test_the_longest_side_of_each_row_is_counted_in_the_order_of_the_set() -> None:
    from datasets import Dataset

    rows = [{"prompt_ids": [1] * a, "chosen_ids": [1] * b, "rejected_ids": [1] * c}
            for a, b, c in ((1, 2, 3), (4, 1, 1), (2, 9, 0))]  # fmt: skip
    shuffled = Dataset.from_list(rows).select([2, 0, 1])
    assert token_counts(shuffled).tolist() == [11, 4, 5]
    assert token_counts(shuffled.remove_columns("prompt_ids")).tolist() == [9, 3, 1]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))]), 8.0),
        (torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=1.0), 0.0),
        (torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=1.0, momentum=0.9), 4.0),
    ],
)
def test_states_of_an_optimizer_are_measured(optimizer: Any, expected: float) -> None:
    assert state_bytes(optimizer, like=torch.zeros(3)) == expected


def test_what_the_preflight_cannot_try_is_reported(tmp_path: Path, tiny_dir: Path) -> None:
    given = words("sft", tmp_path, tiny_dir, "--auto_find_batch_size")
    with pytest.raises(ConfigError, match="needs preflight, which is off"):
        run_stage("sft", [*given, "--preflight", "false"])
    with pytest.raises(ConfigError, match="cannot try a batch under deepspeed, fsdp, torch_comp"):
        run_stage("sft", [*given, "--torch_compile"])
