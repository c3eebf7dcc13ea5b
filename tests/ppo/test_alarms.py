"""The alarms ring where they should, once, and not where all is well."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ppo_cases import logged, tiny_args

from alignment.ppo.alarms import ALARMS, AlarmBell, report_alarms
from alignment.trackers.files import FileTracker

if TYPE_CHECKING:
    from alignment.ppo.trainer import PPOTrainer

WELL = {
    "objective/kl": 1.0,
    "objective/score": 1.0,
    "policy/entropy": 2.0,
    "critic/explained_variance": 0.5,
    "response/length": 20.0,
    "response/eos_rate": 0.9,
}
ILL: dict[str, dict[str, float]] = {
    "kl_high": {"objective/kl": 12.5},
    "kl_negative": {"objective/kl": -2.0},
    "entropy_collapse": {"policy/entropy": 0.1},
    "critic_useless": {"critic/explained_variance": -0.5},
    "length_runaway": {"response/length": 41.0},
    "overoptimised": {"objective/score": 2.0},
}


@pytest.fixture
def bell(tmp_path: Path) -> AlarmBell:
    return AlarmBell(tiny_args(tmp_path, alarm_patience=3), {})


def look(bell: AlarmBell, times: int, **changes: Any) -> list[list[str]]:
    now = WELL | changes.get("now", {})
    return [names(bell.look(now, warmed_up=True)) for _ in range(times)]


def names(rung: list[dict[str, str]]) -> list[str]:
    return [alarm["alarm"] for alarm in rung]


def test_all_is_well(bell: AlarmBell) -> None:
    bell.note_held_out(0.8)
    assert look(bell, 20) == [[]] * 20


@pytest.mark.parametrize("name", ILL)
def test_an_alarm_rings_once_after_some_rollouts(
    bell: AlarmBell, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    look(bell, 1)
    if name == "overoptimised":
        bell.note_held_out(0.8)
        bell.note_held_out(0.6)
    rung = [bell.look(WELL | ILL[name], warmed_up=True) for _ in range(8)]
    assert list(map(names, rung)) == [[], [], [name], [], [], [], [], []]
    with caplog.at_level(logging.WARNING):
        report_alarms(rung[2], FileTracker(tmp_path), step=7)
    (record,) = caplog.records
    (row,) = map(json.loads, (tmp_path / "alarms.jsonl").read_text().splitlines())
    assert record.message == f"PPO: {row['message']}"
    assert "{" not in row["message"]
    assert (row["step"], row["alarm"]) == (7, name)


def test_every_alarm_is_tried_here() -> None:
    assert {alarm.name for alarm in ALARMS} == set(ILL)


def test_a_single_odd_rollout_rings_nothing(bell: AlarmBell) -> None:
    look(bell, 1)
    for _ in range(4):
        assert look(bell, 2, now=ILL["kl_high"]) == [[], []]
        assert look(bell, 1) == [[]]


def test_a_critic_may_be_useless_while_it_warms_up(bell: AlarmBell) -> None:
    look(bell, 1)
    now = WELL | ILL["critic_useless"]
    assert [bell.look(now, warmed_up=False) for _ in range(5)] == [[]] * 5
    assert [names(bell.look(now, warmed_up=True)) for _ in range(3)][-1] == ["critic_useless"]


def test_responses_that_no_longer_end(bell: AlarmBell) -> None:
    look(bell, 1)
    assert look(bell, 3, now={"response/eos_rate": 0.1})[-1] == ["length_runaway"]


def test_a_rising_reward_with_a_rising_measure_is_no_over_optimisation(bell: AlarmBell) -> None:
    look(bell, 1)
    bell.note_held_out(0.8)
    bell.note_held_out(0.9)
    assert look(bell, 5, now=ILL["overoptimised"]) == [[]] * 5


def test_no_patience_means_never(tmp_path: Path) -> None:
    bell = AlarmBell(tiny_args(tmp_path, alarm_patience=0), {})
    look(bell, 1)
    assert look(bell, 9, now=ILL["kl_high"]) == [[]] * 9


def test_the_memory_goes_through_a_checkpoint(
    make_trainer: Callable[..., PPOTrainer], tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    whole = make_trainer(**keys, folder=tmp_path / "whole")
    whole.train()
    assert whole.ppo_state.alarms["first"]["response/length"] > 0
    resumed = make_trainer(**keys, folder=tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    first = {k: v for k, v in whole.ppo_state.alarms["first"].items() if v == v}
    again = {k: v for k, v in resumed.ppo_state.alarms["first"].items() if v == v}
    assert again == first
    assert resumed.ppo_state.alarms["counts"] == whole.ppo_state.alarms["counts"]


def test_a_run_that_leaves_its_reference_says_so(
    make_trainer: Callable[..., PPOTrainer], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(
        learning_rate=0.1, target_kl=0.05, alarm_patience=1, beta=1e-6, max_steps=12
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    printed = [r.message for r in caplog.records if r.message.startswith("PPO: ")]
    assert any("KL to the reference" in line for line in printed)
    lines = (Path(trainer.args.output_dir) / "alarms.jsonl").read_text().splitlines()
    assert [f"PPO: {row['message']}" for row in map(json.loads, lines)] == printed
    counts = logged(trainer, "alarms/count")
    assert counts == sorted(counts)
    assert counts[-1] == len(printed)


@pytest.mark.parametrize(
    ("keys", "name", "value", "noted"),
    [
        ({}, "eval_objective/score", 0.5, 0.5),
        ({"metric_for_best_model": "rewards/f"}, "eval_rewards/f", 0.5, 0.5),
        ({"metric_for_best_model": "loss", "greater_is_better": False}, "eval_loss", 0.5, -0.5),
    ],
)
def test_the_held_out_measure_is_noted_at_an_evaluation(
    make_trainer: Callable[..., PPOTrainer],
    keys: dict[str, Any],
    name: str,
    value: float,
    noted: float,
) -> None:
    trainer = make_trainer(**keys)
    trainer.log({name: value, "loss": 9.0})
    trainer.log({"eval_other": 8.0})
    assert trainer.ppo_state.alarms["held_out"] == {"now": noted, "best": noted}
