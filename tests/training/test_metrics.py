"""Metrics that are the same in any batch size, accumulation and number of processes."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from on_processes import main
from safetensors.torch import load_file
from support import PATIENCE, REPOSITORY, write_jsonl

from alignment.registry import STAGES
from alignment.training.metrics import HIGHEST, LOWEST, OwnBatches, Totals
from alignment.training.run import run_stage

PAIRS = [
    {"prompt": f"say {word}", "chosen": "one " * (1 + number), "rejected": "two " * (5 - number)}
    for number, word in enumerate(("one", "two", "three", "four", "five"))
]
UNITS = {"entropy": "tokens", "least": LOWEST, "most": HIGHEST}


def words(stage: str, folder: Path, model: Path, *more: str) -> list[str]:
    data = write_jsonl(folder / "pairs.jsonl", PAIRS)
    named = [
        "--model_name_or_path",
        str(model),
        "--train_data",
        str(data),
        "--eval_data",
        str(data),
    ]
    named += ["--max_steps", "2", "--logging_steps", "1", "--use_cpu", "--report_to", "none"]
    named += ["--disable_tqdm", "true", "--preflight", "false", "--output_dir", str(folder / "out")]
    return [*named, "--overwrite", "--learning_rate", "1e-3", "--max_grad_norm", "0", *more]


def numbers(folder: Path) -> dict[str, float]:
    """The metrics of a run that do not depend on the clock."""
    found = json.loads((folder / "out" / "run.json").read_text())["metrics"]
    clock = ("runtime", "per_second", "flos", "epoch")
    return {name: x for name, x in found.items() if not any(word in name for word in clock)}


def test_a_last_batch_that_is_too_small_joins_the_one_before() -> None:
    def batches(rows: int) -> list[list[int]]:
        return list(OwnBatches(rows, size=2, rank=0, processes=1, least=2))

    assert batches(5) == [[0, 1], [2, 3, 4]]
    assert batches(4) == [[0, 1], [2, 3]]
    assert batches(1) == [[0]]


@pytest.mark.parametrize("rows", range(1, 12))
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_row_comes_once_and_no_process_waits(rows: int, processes: int) -> None:
    each = [OwnBatches(rows, size=2, rank=n, processes=processes) for n in range(processes)]
    assert len({len(batches) for batches in each}) == 1
    real = [list(batches)[: batches.real] for batches in each]
    assert sorted(chain(*chain(*real))) == list(range(rows))
    assert all(batch == [0] for batches in each for batch in list(batches)[batches.real :])


def test_a_mean_is_weighted_by_its_unit() -> None:
    mine, other = Totals(UNITS), Totals(UNITS)
    for totals, rows, tokens, value in ((mine, 3, 10, 1.0), (mine, 0, 0, 7.0), (other, 1, 2, 4.0)):
        counts = {"rows": rows, "tokens": tokens}
        totals.add("accuracy", value, counts)
        totals.add("entropy", value, counts)
        totals.add("least", value, counts)
        totals.add("most", value, counts)
        totals.add_losses({"rows": value, "tokens": 2 * value}, counts)
    mine.merge([other])
    assert mine.means() == {
        "least": 1.0,
        "most": 7.0,
        "accuracy": pytest.approx(7 / 4),
        "entropy": pytest.approx(18 / 12),
        "loss": pytest.approx(7 / 4 + 36 / 12),
    }


def test_margins_are_the_difference_of_what_is_written() -> None:
    totals = Totals({"rewards/chosen": "chosen", "rewards/rejected": "rejected"})
    for chosen, rejected, value in ((1, 2, 1.0), (3, 1, 2.0)):
        counts = {"rows": 3, "chosen": chosen, "rejected": rejected}
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
            totals.add(name, value if name != "rewards/margins" else 9.0, counts)
    found = totals.means()
    assert found["rewards/chosen"] == pytest.approx(7 / 4)
    assert found["rewards/rejected"] == pytest.approx(4 / 3)
    assert found["rewards/margins"] == pytest.approx(7 / 4 - 4 / 3)


def scores(folder: Path, texts: list[str]) -> torch.Tensor:
    from alignment.models.folders import load_tokenizer
    from alignment.ppo.rewards import load_reward_model

    reward = load_reward_model(str(folder), policy_tokenizer=load_tokenizer(str(folder)))
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in PAIRS]
    answers = [[{"role": "assistant", "content": text}] for text in texts]
    return torch.tensor(reward(prompts=prompts, completions=answers))


def test_the_accuracy_of_rm_is_that_of_all_pairs(tmp_path: Path, tiny_dir: Path) -> None:
    """Of 5 pairs in batches of 2, 2 and 1, the mean of batches counts the last one twice."""
    run_stage("rm", words("rm", tmp_path, tiny_dir, "--per_device_eval_batch_size", "2"))
    chosen, rejected = (scores(tmp_path / "out", [row[side] for row in PAIRS])
                        for side in ("chosen", "rejected"))  # fmt: skip
    found = numbers(tmp_path)
    assert found["eval_accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    assert found["eval_margin"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-5)
    loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
    assert found["eval_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert found["eval_min_reward"] == pytest.approx(
        torch.cat([chosen, rejected]).min().item(), abs=1e-5
    )
    stats = json.loads((tmp_path / "out" / "reward_stats.json").read_text())
    assert stats["count"] == 5
    assert stats["mean"] == pytest.approx(chosen.mean().item(), abs=1e-5)
    assert stats["std"] == pytest.approx(chosen.std(correction=0).item(), abs=1e-5)


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo", "kto"])
def test_numbers_do_not_depend_on_batches(stage: str, tmp_path: Path, tiny_dir: Path) -> None:
    more = ["--loss_type", "sigmoid", "sft", "--loss_weights", "1", "0.5"] if stage == "dpo" else []
    if stage == "kto":
        more = ["--loss_type", "apo_zero_unpaired"]
    found = []
    for rows, steps, held_out in ((4, 1, 5), (2, 2, 2), (1, 4, 3)):
        more_keys = ["--per_device_train_batch_size", str(rows), *more]
        more_keys += ["--gradient_accumulation_steps", str(steps)]
        more_keys += ["--per_device_eval_batch_size", str(held_out), "--seed", "3"]
        run_stage(stage, words(stage, tmp_path, tiny_dir, *more_keys, "--max_steps", "1"))
        found.append((numbers(tmp_path), load_file(tmp_path / "out" / "model.safetensors")))
    (first, weights), *others = found
    for other, other_weights in others:
        assert other == pytest.approx(first, rel=1e-3, abs=2e-4)
        moved = [(x - other_weights[name]).abs() for name, x in weights.items()]
        assert sum((x > 1e-4).sum() for x in moved) < 0.01 * sum(x.numel() for x in moved)


#: Stages on two processes, in one start of them; the loss of kto is that of the batch.
ON_TWO = {
    "sft": [],
    "rm": [],
    "dpo": ["--loss_type", "sigmoid", "sft", "--loss_weights", "1", "0.5"],
    "kto": ["--loss_type", "apo_zero_unpaired"],
}


def test_two_processes_have_the_numbers_of_one(tmp_path: Path, tiny_dir: Path) -> None:
    def flags(processes: int) -> dict[str, list[str]]:
        sizes = ["--per_device_eval_batch_size", "2", "--lr_scheduler_type", "constant"]
        sizes += ["--per_device_train_batch_size", str(2 // processes)]
        found = {}
        for stage, more in ON_TWO.items():
            (tmp_path / stage).mkdir(exist_ok=True)
            found[stage] = words(stage, tmp_path / stage, tiny_dir, *sizes, *more)
        return found

    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    shown = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    script = REPOSITORY / "tests" / "on_processes.py"
    done = subprocess.run(
        [sys.executable, *launcher, str(script), json.dumps(flags(2))],
        env={**os.environ, **shown}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    stats = json.loads((tmp_path / "rm" / "out" / "reward_stats.json").read_text())
    assert stats["count"] == 5
    two = {stage: numbers(tmp_path / stage) for stage in ON_TWO}
    main(flags(1))
    for stage, found in two.items():
        assert "eval_loss" in found
        one = numbers(tmp_path / stage)
        measured = {name.removeprefix("eval_") for name in one if name.startswith("eval_")}
        clock = {"runtime", "samples_per_second", "steps_per_second", "num_tokens"}
        assert measured - clock == STAGES[stage].metrics.keys() - {"aux_loss"}
        assert found == pytest.approx(one, rel=1e-3, abs=2e-4), stage


def test_metrics_of_kto_but_loss_and_kl_do_not_depend_on_the_batch(
    tmp_path: Path, tiny_dir: Path
) -> None:
    sizes = ["--per_device_train_batch_size", "2", "--per_device_eval_batch_size"]
    found = []
    for size in ("2", "4", "5"):
        run_stage("kto", words("kto", tmp_path, tiny_dir, *sizes, size))
        found.append(numbers(tmp_path))
    of_batches = ("eval_loss", "eval_kl")
    first, *others = [{k: x for k, x in one.items() if k not in of_batches} for one in found]
    assert {"eval_rewards/margins", "eval_logps/chosen", "eval_entropy"} <= first.keys()
    for other in others:
        assert other == pytest.approx(first, rel=1e-3, abs=2e-4)


def masked(first: str, last: str) -> list[dict[str, Any]]:
    """An answer of three turns, of which only the last one carries loss."""
    return [
        {"role": "assistant", "content": first, "weight": 0},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": last},
    ]


MASKED = [
    {
        "prompt": [{"role": "user", "content": f"say {word}"}],
        "chosen": masked("a first answer", f"one {word}"),
        "rejected": masked("another", f"{word} {word} two"),
    }
    for word in ("one", "two", "three", "four")
]


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_a_reference_that_is_computed_before_is_the_same(
    stage: str, tmp_path: Path, tiny_dir: Path
) -> None:
    found: dict[tuple[str, str], list[float]] = {}
    # in one cache of rows: the reference of one batch size is not that of another one
    for size, before in (("4", "true"), ("2", "false"), ("2", "true")):
        more = ["--precompute_ref_log_probs", before, "--per_device_train_batch_size", size]
        flags = words(stage, tmp_path, tiny_dir, *more)
        write_jsonl(tmp_path / "pairs.jsonl", MASKED)
        run_stage(stage, flags)
        lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines if '"loss"' in line]
        found[size, before] = [row[key] for row in rows for key in ("loss", "rewards/chosen")]
    assert found["2", "true"] == pytest.approx(found["2", "false"], abs=1e-5)
