"""The loss of a micro-batch with its signs and weights, and the averages of its metrics."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_cases import tiny_args
from torch import Tensor

from alignment.ppo.forward import ResponseOutput
from alignment.ppo.losses import StepSums, ppo_loss
from alignment.ppo.math import same
from alignment.ppo.rollout import Rollout, pad_rollout

CPU = torch.device("cpu")
#: Ratios of 2 and 0.5, and one of 1.15, between the two clips.
RATIOS = torch.tensor([[2.0, 0.5], [1.15, 1.0]])


def rows() -> Rollout:
    """Responses of 2 and 1 tokens; the padding holds numbers that no sum may contain."""
    found = pad_rollout([[7], [7]], [[1, 2], [3]], pad_token_id=0, counts=[True] * 2, device=CPU)
    columns = {
        "old_logps": torch.tensor([[-1.0, -2.0], [-3.0, 9.0]]),
        "advantages": torch.tensor([[1.0, -2.0], [4.0, 9.0]]),
        "values": torch.tensor([[1.0, 2.0], [3.0, 9.0]]),
        "returns": torch.tensor([[2.0, 0.0], [3.0, 9.0]]),
    }
    return Rollout(**{**vars(found), **columns})


def output(**columns: Tensor) -> ResponseOutput:
    given = {
        "logps": rows().old_logps + RATIOS.log(),
        "entropy": torch.tensor([[0.5, 1.0], [2.0, 9.0]]),
        # moves by 1, 0.1 and 0: the first is clipped at 0.2, and its error grows
        "state_values": torch.tensor([[0.0, 2.1], [3.0, 9.0]]),
    }
    return ResponseOutput(**{**given, **columns})


#: -min(rho A, clip(rho) A): the ratio 2 counts as 1.2; 0.5 counts as 0.8 (A < 0); 1.15 as it is.
POLICY = -1.2 + 2 * 0.8 - 4 * 1.15
#: Half of the squared errors 4, 4.41 and 0; the clip would make the first one smaller.
CRITIC = 0.5 * (4 + 4.41)
ENTROPY = 3.5


@pytest.mark.parametrize(
    ("keys", "train_policy", "expected"),
    [
        ({"entropy_coef": 0.0}, True, POLICY + 0.1 * CRITIC),
        ({"entropy_coef": 0.01}, True, POLICY - 0.01 * ENTROPY + 0.1 * CRITIC),
        ({"entropy_coef": 0.01}, False, 0.1 * CRITIC),
        ({"vf_coef": 2.0}, True, POLICY + 2 * CRITIC),
        ({"vf_coef": 2.0}, False, 2 * CRITIC),
        # clip higher: up to 1.5, while below it stays 0.8
        ({"epsilon_high": 0.5}, True, -1.5 + 1.6 - 4.6 + 0.1 * CRITIC),
        ({"cliprange": 0.1}, True, -1.1 + 2 * 0.9 - 4 * 1.1 + 0.1 * CRITIC),
    ],
)
def test_the_loss_is_surrogate_less_entropy_plus_value_loss(
    tmp_path: Path, keys: dict[str, Any], train_policy: bool, expected: float
) -> None:
    keys = {"vf_coef": 0.1, "cliprange": 0.2, "cliprange_value": 0.2, "entropy_coef": 0.0, **keys}
    args = tiny_args(tmp_path, **keys)
    loss = ppo_loss(output(), rows(), args=args, sums=StepSums(), train_policy=train_policy)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_metrics_are_means_over_the_counted_tokens(tmp_path: Path) -> None:
    args = tiny_args(tmp_path, cliprange=0.2, cliprange_value=0.2)
    sums = StepSums()
    ppo_loss(output(), rows(), args=args, sums=sums, train_policy=True)
    found = sums.finish(same)
    kl = sum(r - 1 - torch.tensor(r).log().item() for r in (2.0, 0.5, 1.15))
    assert list(found) == list(StepSums.METRICS)
    assert found == pytest.approx(
        {
            "policy/loss": POLICY / 3,
            "critic/loss": CRITIC / 3,
            "policy/entropy": ENTROPY / 3,
            "policy/clip_fraction": 2 / 3,
            "policy/approx_kl": kl / 3,
            "policy/ratio": 3.65 / 3,
            "critic/clip_fraction": 0.0,
        },
        rel=1e-5,
    )


def test_the_value_loss_is_clipped_around_the_values_of_the_rollout(tmp_path: Path) -> None:
    """The critic moves from 1 to 2, the return: clipped at 1.2, the error is 0.8."""
    values = torch.tensor([[2.0, 0.0], [3.0, 9.0]])
    errors = {0.2: 0.8**2 + 1.8**2, None: 0.0}
    for clip, error in errors.items():
        args = tiny_args(tmp_path, cliprange_value=clip, vf_coef=1.0)
        sums = StepSums()
        given = output(state_values=values)
        loss = ppo_loss(given, rows(), args=args, sums=sums, train_policy=False)
        assert loss.item() == pytest.approx(0.5 * error, abs=1e-6)
        clipped = sums.finish(same)["critic/clip_fraction"]
        assert clipped == pytest.approx(2 / 3 if clip else 0.0)


def test_metrics_average_over_micro_batches_and_processes_and_start_again() -> None:
    sums = StepSums()
    sums.add([torch.tensor(float(n)) for n in range(7)], torch.tensor(2))
    sums.add([torch.tensor(10.0)] * 7, torch.tensor(3))
    seen = []

    def double(total: Tensor) -> Tensor:
        seen.append(total.tolist())
        return total + 1

    assert list(sums.finish(double).values()) == [(n + 11) / 6 for n in range(7)]
    assert seen == [[*(n + 10.0 for n in range(7)), 5.0]]
    sums.add([torch.tensor(6.0)] * 7, torch.tensor(0))
    assert set(sums.finish(same).values()) == {6.0}  # no token: divided by 1


def test_the_loss_of_bfloat16_is_computed_in_float32(tmp_path: Path) -> None:
    given = output()
    half = {name: x.bfloat16() for name, x in given.items()}
    half["entropy"] = half["entropy"].requires_grad_()
    args = tiny_args(tmp_path, entropy_coef=0.01)
    loss = ppo_loss(ResponseOutput(**half), rows(), args=args, sums=StepSums(), train_policy=True)
    assert loss.dtype == torch.float32
    loss.backward()
    gradient = half["entropy"].grad
    assert gradient is not None
    assert gradient.tolist() == [
        [pytest.approx(-0.01, rel=1e-2)] * 2,
        [pytest.approx(-0.01, rel=1e-2), 0.0],
    ]
