"""From scores to advantages on numbers that can be checked by hand."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_cases import tiny_args
from torch import Tensor

from alignment.errors import DataError
from alignment.ppo.experience import (
    Experience,
    TokenScores,
    combine_scores,
    make_experience,
    reference_of,
    score_tokens,
)
from alignment.ppo.forward import ResponseOutput
from alignment.ppo.math import Reduce, same
from alignment.ppo.reward_functions import ScoreStats
from alignment.ppo.rollout import pad_rollout

#: Log-probabilities under policy and reference, of responses of 2 and 1 tokens.
LOGPS = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]])
REF_LOGPS = torch.tensor([[-1.5, -1.0], [-2.0, 0.0]])
SCORES = torch.tensor([3.0, -1.0])


def experience(
    folder: Path,
    *,
    center: bool = False,
    beta: float = 0.1,
    ref_logps: Tensor | None = REF_LOGPS,
    reduce: Reduce = same,
    **keys: Any,
) -> Experience:
    keys = {"gamma": 1.0, "lam": 1.0, "whiten_advantages": False, **keys}
    rollout = pad_rollout(
        [[7], [7]], [[1, 2], [3]], pad_token_id=0, counts=[True, True], device=torch.device("cpu")
    )
    tokens = TokenScores(LOGPS, torch.zeros(2, 2), ref_logps, torch.zeros(2, 2))
    args = tiny_args(folder, beta=beta, **keys)
    return make_experience(
        rollout, tokens, scores=SCORES, args=args, beta=beta, center=center, reduce=reduce
    )


def test_returns_are_the_score_less_the_kl_still_to_come(tmp_path: Path) -> None:
    found = experience(tmp_path).rollout
    # k1 at each token: 0.5 and -1; 1.5. With gamma 1 a return is the sum of what comes.
    expected = [[3 - 0.1 * (0.5 - 1), 3 - 0.1 * -1], [-1 - 0.1 * 1.5, 0]]
    torch.testing.assert_close(found.returns, torch.tensor(expected))
    torch.testing.assert_close(found.advantages, torch.tensor(expected))


def test_the_kl_of_a_response_by_both_estimates(tmp_path: Path) -> None:
    """k3 is r - 1 - log r with r = pi_ref / pi: the other way round it is another number."""
    found = experience(tmp_path)
    torch.testing.assert_close(found.kl, torch.tensor([0.5 - 1.0, 1.5]))

    def k3(policy: float, reference: float) -> float:
        log_ratio = reference - policy
        return math.exp(log_ratio) - 1 - log_ratio

    expected = [k3(-1.0, -1.5) + k3(-2.0, -1.0), k3(-0.5, -2.0)]
    torch.testing.assert_close(found.kl_k3, torch.tensor(expected))


def test_whitened_rewards_keep_their_mean(tmp_path: Path) -> None:
    """With lambda 0 and gamma 0 an advantage is the reward of its token."""
    keys: dict[str, Any] = {"gamma": 0.0, "lam": 0.0}
    mask = torch.tensor([[True, True], [True, False]])
    plain = experience(tmp_path, **keys).rollout.advantages[mask]
    white = experience(tmp_path, whiten_rewards=True, **keys).rollout.advantages[mask]
    assert plain.mean().item() == pytest.approx((-0.05 + 3.1 - 1.15) / 3)
    assert white.mean().item() == pytest.approx(plain.mean().item())
    assert white.std().item() == pytest.approx(1.0)
    assert plain.std().item() != pytest.approx(1.0)


def test_centred_values_have_the_mean_of_the_returns(tmp_path: Path) -> None:
    found = experience(tmp_path, center=True)
    mask = torch.tensor([[True, True], [True, False]])
    returns = torch.tensor([3.05, 3.1, -1.15])
    assert found.shift == pytest.approx(returns.mean().item())
    torch.testing.assert_close(found.rollout.values[mask], returns.mean().expand(3))


def scores(folder: Path, raw: Tensor, *, ended: list[bool], **keys: Any) -> list[float]:
    found = combine_scores(
        raw,
        weights=torch.tensor([1.0, 0.5]),
        stats=[ScoreStats(mean=1.0, std=2.0), None],
        ended=torch.tensor(ended),
        args=tiny_args(folder, **keys),
    )
    return [round(x, 4) for x in found.tolist()]


def test_scores_are_normalised_weighted_summed_clipped_and_only_then_penalised(
    tmp_path: Path,
) -> None:
    raw = torch.tensor([[5.0, 2.0], [5.0, torch.nan], [1.0, -2.0]])
    keys: dict[str, Any] = {"ended": [True, True, False], "missing_eos_penalty": 0.25}
    assert scores(tmp_path, raw.clone(), **keys) == [6.0, 5.0, -0.25]
    keys["normalize_reward"] = True
    assert scores(tmp_path, raw.clone(), **keys) == [3.0, 2.0, -1.25]
    keys["score_clip"] = 0.5
    assert scores(tmp_path, raw.clone(), **keys) == [0.5, 0.5, -0.75]


def test_a_row_without_any_score_is_named(tmp_path: Path) -> None:
    raw = torch.tensor([[1.0, 1.0], [torch.nan, torch.nan]])
    with pytest.raises(DataError, match="row 1 of the rollout: no reward function gave it a score"):
        scores(tmp_path, raw, ended=[True, True])


def test_every_statistic_is_that_of_all_processes(tmp_path: Path) -> None:
    """A second process with the same rows: sums double, and an unbiased variance shrinks."""
    keys: dict[str, Any] = {"whiten_rewards": True, "whiten_advantages": True, "center": True}
    alone = experience(tmp_path, **keys)
    both = experience(tmp_path, reduce=lambda total: total * 2, **keys)
    mask = torch.tensor([[True, True], [True, False]])
    rewards = torch.tensor([0.05 * -1, 3 + 0.1, -1.15])

    def white(x: Tensor, copies: int) -> Tensor:
        return (x - x.mean()) / x.repeat(copies).std()

    for found, copies in ((alone, 1), (both, 2)):
        scaled = white(rewards, copies) + rewards.mean()
        returns = torch.stack([scaled[0] + scaled[1], scaled[1], scaled[2]])
        assert found.shift == pytest.approx(returns.mean().item(), abs=1e-4)
        expected = white(returns - returns.mean(), copies)
        torch.testing.assert_close(found.rollout.advantages[mask], expected)
    plain = experience(tmp_path, center=True)
    # the sum of the other process is as large, and it has no token: the mean doubles
    uneven = experience(tmp_path, center=True, reduce=lambda x: x * torch.tensor([2.0, 1.0]))
    assert uneven.shift == pytest.approx(2 * plain.shift)


def test_without_a_reference_nothing_is_subtracted(tmp_path: Path) -> None:
    found = experience(tmp_path, ref_logps=None)
    assert found.kl.tolist() == found.kl_k3.tolist() == [0.0, 0.0]
    torch.testing.assert_close(found.rollout.returns, torch.tensor([[3.0, 3.0], [-1.0, 0.0]]))
    torch.testing.assert_close(found.rollout.old_logps, LOGPS)
    assert found.shift == 0.0


def test_the_penalty_goes_by_the_estimator_that_is_set(tmp_path: Path) -> None:
    by_k3 = experience(tmp_path, kl_estimator="k3")
    k3 = math.exp(-1.5) - 1 + 1.5
    assert by_k3.rollout.returns[1, 0].item() == pytest.approx(-1 - 0.1 * k3)
    assert by_k3.kl[1].item() == 1.5, "the metric stays k1"


def test_values_are_shifted_under_the_mask_alone(tmp_path: Path) -> None:
    found = experience(tmp_path, center=True)
    assert found.rollout.values[1, 1] == 0.0
    assert found.rollout.returns[1, 1] == 0.0


class Policy(torch.nn.Module):
    """Answers the log-probability -row, and -row - 0.5 with values of +row."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, input_ids: Tensor, *, response_length: int, **_: Any) -> ResponseOutput:
        answered = input_ids[:, -response_length:].float()
        return ResponseOutput(logps=-answered - self.shift, state_values=answered)


def test_each_row_gets_its_own_numbers_whatever_its_micro_batch() -> None:
    rollout = pad_rollout(
        [[7], [7], [7]],
        [[1, 2, 3], [4], [5, 6]],
        pad_token_id=0,
        counts=[True] * 3,
        device=torch.device("cpu"),
    )
    expected = rollout.response_ids.float()
    plan = [torch.tensor([1, 2]), torch.tensor([0])]
    scored = score_tokens(Policy(0.0), rollout, reference=None, plan=plan, autocast=nullcontext)
    torch.testing.assert_close(scored.logps, -expected)
    torch.testing.assert_close(scored.values, expected)
    assert scored.ref_logps is None
    reference = reference_of(Policy(0.0), Policy(0.5))
    scored = score_tokens(
        Policy(0.0), rollout, reference=reference, plan=plan, autocast=nullcontext
    )
    assert scored.ref_logps is not None
    mask = rollout.response_mask
    torch.testing.assert_close(scored.ref_logps[mask], -expected[mask] - 0.5)
