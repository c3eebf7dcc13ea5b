"""From scores to advantages on numbers that can be checked by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_cases import tiny_args
from torch import Tensor

from alignment.errors import DataError
from alignment.ppo.experience import Experience, TokenScores, combine_scores, make_experience
from alignment.ppo.math import same
from alignment.ppo.reward_functions import ScoreStats
from alignment.ppo.rollout import pad_rollout

#: Log-probabilities under policy and reference, of responses of 2 and 1 tokens.
LOGPS = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]])
REF_LOGPS = torch.tensor([[-1.5, -1.0], [-2.0, 0.0]])
SCORES = torch.tensor([3.0, -1.0])


def experience(folder: Path, *, center: bool = False, beta: float = 0.1, **keys: Any) -> Experience:
    keys = {"gamma": 1.0, "lam": 1.0, "whiten_advantages": False, **keys}
    rollout = pad_rollout(
        [[7], [7]], [[1, 2], [3]], pad_token_id=0, counts=[True, True], device=torch.device("cpu")
    )
    tokens = TokenScores(LOGPS, torch.zeros(2, 2), REF_LOGPS)
    args = tiny_args(folder, beta=beta, **keys)
    return make_experience(
        rollout, tokens, scores=SCORES, args=args, beta=beta, center=center, reduce=same
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
