import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignment.ppo import math

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)


def rows(*numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_kl_estimators_by_hand() -> None:
    # pi = 1/2, pi_ref = 1/4: r = 1/2
    logps, ref = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    ln2 = 0.6931472
    assert math.kl_estimate(logps, ref, estimator="k1").item() == pytest.approx(ln2)
    assert math.kl_estimate(logps, ref, estimator="k2").item() == pytest.approx(ln2**2 / 2)
    assert math.kl_estimate(logps, ref, estimator="k3").item() == pytest.approx(-0.5 + ln2)


def test_k1_and_k3_agree_with_the_exact_kl_in_expectation() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    exact = (p * (p / q).log()).sum()
    for estimator in ("k1", "k3"):
        expected = (p * math.kl_estimate(p.log(), q.log(), estimator=estimator)).sum()
        assert expected.item() == pytest.approx(exact.item(), abs=1e-6)


def test_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="k9"):
        math.kl_estimate(torch.zeros(1), torch.zeros(1), estimator="k9")


def test_token_rewards_by_hand() -> None:
    kl = rows([1, 2, 3, 9], [4, 5, 9, 9])
    rewards = math.token_rewards(kl, torch.tensor([10.0, 20.0]).double(), MASK, beta=0.5)
    assert rewards.tolist() == [[-0.5, -1.0, 8.5, 0.0], [-2.0, 17.5, 0.0, 0.0]]


def test_a_response_without_tokens_gets_no_reward() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    rewards = math.token_rewards(torch.ones(1, 3), torch.ones(1), nothing, beta=1.0)
    assert rewards.tolist() == [[0.0, 0.0, 0.0]]


def test_gae_by_hand() -> None:
    rewards, values = rows([0, 1, 2]), rows([1, 2, 3])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = math.gae(rewards, values, mask, gamma=0.5, lam=0.5)
    # delta = [0 + 1 - 1, 1 + 1.5 - 2, 2 - 3] = [0, 0.5, -1]
    assert advantages.tolist() == [[0.0625, 0.25, -1.0]]
    assert returns.tolist() == [[1.0625, 2.25, 2.0]]


def gae_from_the_paper(
    rewards: Tensor, values: Tensor, length: int, *, gamma: float, lam: float
) -> list[float]:
    """Eq. 16 of arXiv 1506.02438 as a double sum, for one row."""
    v = [*values[:length].tolist(), 0.0]
    delta = [rewards[t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
    return [
        sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, length)) for t in range(length)
    ]


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    width = max(lengths) + draw(st.integers(0, 2))
    numbers = st.floats(-5, 5, allow_nan=False, width=32)
    cells = st.lists(numbers, min_size=width, max_size=width)
    grid = st.lists(cells, min_size=len(lengths), max_size=len(lengths))
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    return rows(*draw(grid)), rows(*draw(grid)), mask


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_the_double_sum(
    batch: tuple[Tensor, Tensor, Tensor], gamma: float, lam: float
) -> None:
    rewards, values, mask = batch
    advantages, returns = math.gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row in range(len(mask)):
        length = int(mask[row].sum())
        slow = gae_from_the_paper(rewards[row], values[row], length, gamma=gamma, lam=lam)
        assert advantages[row, :length].tolist() == pytest.approx(slow, abs=1e-8)
        assert advantages[row, length:].abs().sum() == 0
    torch.testing.assert_close(returns, (advantages + values) * mask)


@settings(max_examples=40, deadline=None)
@given(batches(), st.floats(0, 1))
def test_with_lambda_1_the_advantage_is_discounted_return_minus_value(
    batch: tuple[Tensor, Tensor, Tensor], gamma: float
) -> None:
    rewards, values, mask = batch
    advantages, _ = math.gae(rewards, values, mask, gamma=gamma, lam=1.0)
    for row in range(len(mask)):
        length = int(mask[row].sum())
        for t in range(length):
            total = sum(gamma ** (s - t) * rewards[row, s].item() for s in range(t, length))
            expected = total - values[row, t].item()
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-8)


def test_one_terminal_reward_with_gamma_and_lambda_1_gives_return_minus_value() -> None:
    values = rows([0.3, -0.2, 0.7, 5.0], [1.5, 0.25, 5.0, 5.0])
    scores = torch.tensor([2.0, -1.0]).double()
    rewards = math.token_rewards(torch.zeros_like(values), scores, MASK, beta=0.0)
    advantages, returns = math.gae(rewards, values, MASK, gamma=1.0, lam=1.0)
    torch.testing.assert_close(advantages, (scores.unsqueeze(1) - values) * MASK)
    torch.testing.assert_close(returns, scores.unsqueeze(1) * MASK)


def test_whiten_by_hand_and_what_keep_mean_means() -> None:
    x = rows([5, 6, 7, 99], [8, 0, 99, 99])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    deviation = (5 / 3) ** 0.5  # of 5, 6, 7, 8 around 6.5, unbiased
    moved = math.whiten(x, mask)
    assert moved[0, 0].item() == pytest.approx(-1.5 / deviation)
    assert moved[mask].mean().item() == pytest.approx(0, abs=1e-9)
    kept = math.whiten(x, mask, keep_mean=True)
    assert kept[0, 0].item() == pytest.approx(6.5 - 1.5 / deviation)
    assert kept[mask].mean().item() == pytest.approx(6.5)
    assert moved[~mask].tolist() == kept[~mask].tolist() == [0] * 4


def test_whitening_ignores_what_stands_under_the_mask() -> None:
    x = torch.randn(2, 4)
    other = torch.where(MASK, x, torch.nan)
    torch.testing.assert_close(math.whiten(x, MASK), math.whiten(other, MASK))


def test_whitening_equal_numbers_gives_zero_not_nan() -> None:
    assert math.whiten(torch.full((2, 4), 3.0), MASK).abs().max() == 0


def test_statistics_over_two_processes_equal_those_of_one() -> None:
    x = torch.randn(4, 4).double() + 100
    mask = torch.rand(4, 4) > 0.3
    halves = [(x[:2], mask[:2]), (x[2:], mask[2:])]
    whole = math.whiten(x, mask)
    # The all-reduce of a process is known once the other's partial sums are.
    partial: list[Tensor] = []
    for step in (0, 1):
        found = []
        for values, where in halves:
            calls: list[Tensor] = []

            def reduce(total: Tensor, calls: list[Tensor] = calls) -> Tensor:
                calls.append(total)
                known = partial[len(calls) - 1] if len(calls) <= len(partial) else total
                return known

            math.masked_moments(values, where, reduce=reduce)
            found.append(calls[step])
        partial.append(found[0] + found[1])
    for (values, where), expected in zip(halves, (whole[:2], whole[2:]), strict=True):
        answers = iter(partial)
        result = math.whiten(values, where, reduce=lambda total, answers=answers: next(answers))
        torch.testing.assert_close(result, expected)


def test_policy_loss_by_hand() -> None:
    old = torch.zeros(1, 4)
    logps = torch.tensor([[1.5, 0.5, 1.1, 7.0]]).log()
    advantages = torch.tensor([[1.0, -1.0, 2.0, 5.0]])
    mask = torch.tensor([[True, True, True, False]])
    found = math.policy_loss(logps, old, advantages, mask, clip=(0.2, 0.2))
    # -1.2 (clipped), +0.8 (clipped), -2.2
    assert found.loss.item() == pytest.approx(-1.2 + 0.8 - 2.2)
    assert found.clipped.item() == 2
    ratios = [1.5, 0.5, 1.1]
    kl = sum(r - 1 - torch.tensor(r).log().item() for r in ratios)
    assert found.approx_kl.item() == pytest.approx(kl, abs=1e-6)


def test_policy_loss_has_no_gradient_where_the_clip_cuts() -> None:
    logps = torch.tensor([[1.5, 0.5, 1.5]]).log().requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, -1.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    math.policy_loss(logps, torch.zeros(1, 3), advantages, mask, clip=(0.2, 0.2)).loss.backward()
    assert logps.grad is not None
    assert logps.grad[0].tolist() == pytest.approx([0.0, 0.0, 1.5])


def test_the_upper_clip_may_differ_from_the_lower() -> None:
    logps = torch.tensor([[1.25]]).log()
    mask = torch.ones(1, 1, dtype=torch.bool)
    tight = math.policy_loss(logps, torch.zeros(1, 1), torch.ones(1, 1), mask, clip=(0.2, 0.2))
    loose = math.policy_loss(logps, torch.zeros(1, 1), torch.ones(1, 1), mask, clip=(0.2, 0.3))
    assert (tight.loss.item(), loose.loss.item()) == pytest.approx((-1.2, -1.25))


def test_value_loss_by_hand() -> None:
    values, old = torch.tensor([[2.0, 1.1, 3.0]]), torch.tensor([[1.0, 1.0, 9.0]])
    returns = torch.tensor([[3.0, 1.0, 9.0]])
    mask = torch.tensor([[True, True, False]])
    loss, clipped = math.value_loss(values, old, returns, mask, clip=0.2)
    # near = [1.2, 1.1]; errors max((2-3)^2, (1.2-3)^2) = 3.24, 0.01
    assert loss.item() == pytest.approx(0.5 * (3.24 + 0.01))
    assert clipped.item() == 1
    free, none_clipped = math.value_loss(values, old, returns, mask, clip=None)
    assert free.item() == pytest.approx(0.5 * (1 + 0.01))
    assert none_clipped.item() == 0


@settings(max_examples=30, deadline=None)
@given(batches(), st.integers(1, 3))
def test_padding_more_changes_no_loss(batch: tuple[Tensor, Tensor, Tensor], extra: int) -> None:
    one, other, mask = batch

    def pad(x: Tensor, value: float = 77.0) -> Tensor:
        return torch.nn.functional.pad(x, (0, extra), value=value)

    wide_mask = torch.nn.functional.pad(mask, (0, extra), value=False)
    plain = math.policy_loss(one / 5, other / 5, one, mask, clip=(0.2, 0.2))
    wide = math.policy_loss(pad(one / 5), pad(other / 5), pad(one), wide_mask, clip=(0.2, 0.2))
    for a, b in zip(plain[:3], wide[:3], strict=True):
        torch.testing.assert_close(a, b)
    narrow, broad = (
        math.value_loss(x, y, z, m, clip=0.2)
        for x, y, z, m in (
            (one, other, one + 1, mask),
            (pad(one), pad(other), pad(one + 1), wide_mask),
        )
    )
    torch.testing.assert_close(narrow, broad)


def test_explained_variance_by_hand() -> None:
    returns = rows([1, 2, 3, 0], [4, 5, 0, 0])
    assert math.explained_variance(returns, returns, MASK).item() == 1
    constant = torch.full_like(returns, 3.0)
    assert math.explained_variance(constant, returns, MASK).item() == pytest.approx(0)
    assert math.explained_variance(-returns, returns, MASK).item() == pytest.approx(-3)
    assert math.explained_variance(returns, constant, MASK).isnan()


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -torch.inf, -torch.inf, -torch.inf]])
    assert math.entropy(logits.log_softmax(-1)).tolist() == pytest.approx([1.3862944, 0.0])


def test_adaptive_kl_by_hand_and_its_limits() -> None:
    keys = {"target": 6.0, "horizon": 1000, "responses": 100}
    assert math.adapt_beta(0.1, 6.0, **keys) == 0.1
    assert math.adapt_beta(0.1, 6.6, **keys) == pytest.approx(0.1 * 1.01)  # e = 0.1
    assert math.adapt_beta(0.1, 600.0, **keys) == pytest.approx(0.1 * 1.02)  # e is cut at 0.2
    assert math.adapt_beta(0.1, -5.0, **keys) == pytest.approx(0.1 * 0.98)


def test_every_statistic_uses_the_sums_of_all_processes() -> None:
    """A reduction that doubles is a second process with the same numbers."""
    x, mask = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])
    mean, variance = math.masked_moments(x, mask, reduce=lambda total: total * 2)
    assert (mean.item(), variance.item()) == (2.0, pytest.approx(4 / 3))
    white = math.whiten(x, mask, reduce=lambda total: total * 2)
    torch.testing.assert_close(white, torch.tensor([[-1.0, 1.0, 0.0]]) * 0.75**0.5)
    apart = iter([torch.tensor([4.0, 2.0]), torch.tensor([9.0, 4.0])])
    _, found = math.masked_moments(x, mask, reduce=lambda _: next(apart))
    assert found.item() == 3.0
    # the other process holds 5 and 7 under the mask: the mean is 4, not that of one's own
    others = iter([torch.tensor([16.0, 4.0]), torch.tensor([20.0, 4.0])])
    white = math.whiten(x, mask, reduce=lambda _: next(others))
    torch.testing.assert_close(white[0, :2], (x[0, :2] - 4) / (20 / 3) ** 0.5)


def test_explained_variance_is_that_of_all_processes() -> None:
    values, returns = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 5.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    totals = iter([[0.0, 4.0], [6.0, 4.0], [0.0, 4.0], [24.0, 4.0]])
    found = math.explained_variance(
        values, returns, mask, reduce=lambda _: torch.tensor(next(totals))
    )
    assert found.item() == pytest.approx(1 - 6 / 24)


def test_small_variances_are_explained_too() -> None:
    values, returns = torch.tensor([[0.0, 0.1]]), torch.tensor([[0.0, 0.2]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert math.explained_variance(values, returns, mask).item() == pytest.approx(0.75)


def test_one_entry_has_itself_as_mean_and_no_variance() -> None:
    x, mask = torch.tensor([[3.0, 9.0]]), torch.tensor([[True, False]])
    assert [one.item() for one in math.masked_moments(x, mask)] == [3.0, 0.0]
    assert math.masked_mean(x, torch.zeros_like(mask)).item() == 0.0
    two = torch.tensor([[1.0, 2.0]])
    mean, variance = math.masked_moments(two, torch.ones(1, 2, dtype=torch.bool))
    assert (mean.item(), variance.item()) == (1.5, 0.5)
    counts = math.masked_mean(two.double(), torch.ones(1, 2, dtype=torch.bool))
    assert counts.dtype == torch.float64


def test_the_entropy_is_over_the_last_dimension() -> None:
    logps = torch.log_softmax(torch.arange(12.0).reshape(1, 2, 6).repeat(3, 1, 1), dim=-1)
    found = math.entropy(logps)
    assert found.shape == (3, 2)
    torch.testing.assert_close(found, torch.distributions.Categorical(logits=logps).entropy())


def test_k1_is_the_default_estimator() -> None:
    logps, reference = torch.tensor([[-1.0]]), torch.tensor([[-1.5]])
    assert math.kl_estimate(logps, reference).item() == 0.5
