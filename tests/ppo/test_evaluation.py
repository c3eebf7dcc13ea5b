"""Held-out metrics of PPO are those of all prompts, in any batch size and number of processes."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from ppo_cases import differs, share_of_e

from alignment.ppo.held_out import HeldOutBatches, OwnNoise
from alignment.ppo.trainer import PPOTrainer
from alignment.registry import STAGES

Make = Callable[..., PPOTrainer]
HELD_OUT = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": "Say hello. " * n}]} for n in range(1, 6)]
)
CLOCK = ("runtime", "per_second", "epoch", "step")


@pytest.mark.parametrize("prompts", range(1, 9))
@pytest.mark.parametrize(
    ("repeats", "size", "processes"), [(1, 1, 1), (1, 3, 2), (2, 2, 1), (2, 3, 2), (3, 3, 4)]
)
def test_every_response_counts_once_and_batches_are_of_one_size(
    prompts: int, repeats: int, size: int, processes: int
) -> None:
    each = [
        HeldOutBatches(prompts, repeats=repeats, size=size, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    rows = [list(batches) for batches in each]
    for batch in range(len(each[0])):
        together = list(chain(*(own[batch] for own in rows)))
        assert len({len(own[batch]) for own in rows}) == 1
        assert len(together) <= size * processes + repeats * processes
        groups = [together[i : i + repeats] for i in range(0, len(together), repeats)]
        assert all(len(set(group)) == 1 and len(group) == repeats for group in groups)
    counted = [
        row
        for batches, own in zip(each, rows, strict=True)
        for number, batch in enumerate(own)
        for row, real in zip(batch, batches.real(number), strict=True)
        if real
    ]
    assert sorted(counted) == sorted(list(range(prompts)) * repeats)


def test_own_noise_samples_the_softmax() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    noise = OwnNoise([7], torch.device("cpu"))
    found = torch.stack([noise(scores, scores)[0] for _ in range(4000)])
    assert (found == 0).sum(dim=1).eq(1).all()
    assert (found.max(dim=1).values == 0).all()
    shares = (found == 0).float().mean(dim=0)
    torch.testing.assert_close(shares, scores.softmax(dim=1)[0], atol=0.02, rtol=0)


def test_own_noise_is_that_of_the_row() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    together, alone = OwnNoise([5, 6, 7], scores.device), OwnNoise([6], scores.device)
    for _ in range(8):
        assert torch.equal(together(scores, scores)[1:2], alone(scores[1:2], scores[1:2]))


def held_out(make_trainer: Make, folder: Path, size: int, **keys: Any) -> dict[str, float]:
    torch.manual_seed(size)  # must not matter
    trainer = make_trainer(
        num_ends=60,
        reward_funcs=[share_of_e, differs],
        folder=folder,
        trainer={"eval_dataset": HELD_OUT},
        per_device_eval_batch_size=size,
        max_completion_length=16,
        whiten_rewards=True,
        **keys,
    )
    trainer.evaluate()
    found = trainer.state.log_history[-1]
    return {name: x for name, x in found.items() if not any(word in name for word in CLOCK)}


@pytest.mark.parametrize(
    "keys", [{}, {"num_generations_eval": 2, "top_k": 20, "mask_truncated_completions": True}]
)
def test_metrics_do_not_depend_on_the_batch(
    make_trainer: Make, tmp_path: Path, keys: dict[str, Any]
) -> None:
    first, *others = [held_out(make_trainer, tmp_path, size, **keys) for size in (2, 4, 10)]
    assert first["eval_completions/min_length"] < first["eval_completions/max_length"]
    assert {"eval_loss", "eval_objective/score_std", "eval_rewards/differs"} <= first.keys()
    assert all(STAGES["ppo"].measures(name) for name in first if name != "eval_num_tokens")
    for other in others:
        assert other == pytest.approx(first, rel=1e-4, abs=1e-5)


def test_metrics_are_those_of_the_responses(make_trainer: Make, tmp_path: Path) -> None:
    lengths: list[int] = []

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [float(len(ids)) for ids in completion_ids]

    trainer = make_trainer(
        num_ends=60,
        reward_funcs=reward,
        trainer={"eval_dataset": HELD_OUT},
        per_device_eval_batch_size=2,
        max_completion_length=16,
        missing_eos_penalty=None,
    )
    found = trainer.evaluate()
    values = torch.tensor(lengths).float()
    assert len(lengths) == 5
    assert found["eval_objective/score"] == pytest.approx(values.mean().item())
    assert found["eval_objective/score_std"] == pytest.approx(values.std().item())
    assert found["eval_response/length"] == pytest.approx(values.mean().item())
    assert found["eval_completions/min_length"] == values.min()
    assert found["eval_policy/ratio"] == 1.0
    assert found["eval_policy/approx_kl"] == 0.0
    assert found["eval_policy/entropy"] > 0


def test_an_evaluation_repeats_itself_and_training_does_not_notice(
    make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(trainer={"eval_dataset": HELD_OUT})
    first, again = (trainer.evaluate()["eval_objective/score"] for _ in range(2))
    assert first == again
    assert trainer.ppo_state.rollouts == 0
