"""Each key of PPO changes an outcome, and values that cannot be meant are refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_cases import differs, logged, tiny_args
from torch import Tensor
from torch.nn.functional import pad

from alignment.errors import ConfigError
from alignment.ppo.buffer import MicroBatch
from alignment.ppo.config import PPOConfig
from alignment.ppo.reward_functions import FunctionReward, ScoreStats
from alignment.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]


def rollout_with(make_trainer: Make, **keys: Any) -> PPOTrainer:
    """A trainer with one rollout; the policy has moved away from the reference."""
    trainer = make_trainer(**keys)
    move(trainer)
    trainer.model.train()
    torch.manual_seed(5)
    trainer.next_micro_batch(next(iter(trainer.get_train_dataloader())))
    return trainer


def move(trainer: PPOTrainer) -> None:
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("gamma", 1.0, 0.5),
        ("lam", 1.0, 0.5),
        ("beta", 0.05, 0.5),
        ("kl_estimator", "k1", "k2"),
        ("kl_estimator", "k1", "k3"),
        ("whiten_advantages", True, False),
        ("whiten_rewards", True, False),
        ("missing_eos_penalty", 1.0, 3.0),
        ("missing_eos_penalty", 1.0, None),
    ],
)
def test_keys_of_the_reward_change_the_advantages(
    make_trainer: Make, key: str, one: Any, other: Any
) -> None:
    first, second = (rollout_with(make_trainer, **{key: value}) for value in (one, other))
    assert torch.equal(first.buffer.rollout.response_ids, second.buffer.rollout.response_ids)
    a, b = first.buffer.rollout.advantages, second.buffer.rollout.advantages
    if key == "missing_eos_penalty":  # whitening hides what all responses share
        a, b = first.buffer.rollout.returns, second.buffer.rollout.returns
    assert not torch.allclose(a, b, atol=1e-3)


def test_advantages_are_white_over_the_real_tokens(make_trainer: Make) -> None:
    trainer = rollout_with(make_trainer, num_ends=60)
    assert not trainer.buffer.rollout.response_mask.all()
    real = trainer.buffer.rollout.advantages[trainer.buffer.rollout.response_mask]
    assert real.mean().item() == pytest.approx(0, abs=1e-5)
    assert real.std().item() == pytest.approx(1, abs=1e-4)


def metric(trainer: PPOTrainer, name: str) -> float:
    return float(trainer._metrics["train"][name][0])


def test_scores_are_normalised_by_the_stored_statistics(make_trainer: Make) -> None:
    class Known(FunctionReward):
        stats = ScoreStats(mean=2.0, std=4.0)

    def trainer(**keys: Any) -> PPOTrainer:
        reward = Known(lambda completions, **c: [8.0] * len(completions), name="eight")
        return rollout_with(
            make_trainer, reward_funcs=reward, missing_eos_penalty=None, beta=0.0, **keys
        )

    assert metric(trainer(), "objective/score") == 8.0
    assert metric(trainer(normalize_reward=True), "objective/score") == pytest.approx(1.5)
    clipped = trainer(normalize_reward=True, score_clip=0.5)
    assert metric(clipped, "objective/score") == pytest.approx(0.5)


def test_normalising_by_statistics_that_nobody_stored_is_refused(make_trainer: Make) -> None:
    with pytest.raises(ConfigError, match=r"share_of_e has no statistics.*reward_stats\.json"):
        make_trainer(normalize_reward=True)


def test_rewards_of_the_same_name_have_metrics_of_their_own(make_trainer: Make) -> None:
    rewards = [
        FunctionReward(lambda completions, level=level, **c: [level] * len(completions), name="rm")
        for level in (1.0, 2.0)
    ]
    trainer = rollout_with(make_trainer, reward_funcs=rewards)
    assert (metric(trainer, "rewards/rm"), metric(trainer, "rewards/rm_2")) == (1.0, 2.0)


def test_the_penalty_is_for_responses_that_do_not_end(make_trainer: Make) -> None:
    zero = FunctionReward(lambda completions, **c: [0.0] * len(completions), name="zero")
    trainer = rollout_with(make_trainer, reward_funcs=zero, missing_eos_penalty=2.0)
    missing = 1 - metric(trainer, "response/eos_rate")
    assert metric(trainer, "objective/score") == pytest.approx(-2 * missing)
    assert missing > 0


def test_the_penalty_comes_off_the_clipped_score(make_trainer: Make) -> None:
    eight = FunctionReward(lambda completions, **c: [8.0] * len(completions), name="eight")
    trainer = rollout_with(
        make_trainer, reward_funcs=eight, score_clip=0.5, missing_eos_penalty=2.0, num_ends=60
    )
    missing = 1 - metric(trainer, "response/eos_rate")
    assert 0 < missing < 1
    assert metric(trainer, "objective/score") == pytest.approx(0.5 - 2 * missing)


def test_without_beta_there_is_no_reference(make_trainer: Make) -> None:
    trainer = rollout_with(make_trainer, beta=0.0)
    assert trainer.ref_model is None
    assert metric(trainer, "objective/kl") == 0


def test_the_adaptive_controller_moves_beta_and_the_fixed_one_does_not(make_trainer: Make) -> None:
    keys = {"target_kl": 0.001, "kl_horizon": 100, "max_steps": 8}
    adaptive = make_trainer(kl_control="adaptive", **keys)
    adaptive.train()
    fixed = make_trainer(**keys)
    fixed.train()
    assert fixed.ppo_state.beta == 0.05
    # The first KL is 0, so e = -0.2 with 8 responses of 100; later the policy has moved.
    assert logged(adaptive, "objective/beta")[1] == pytest.approx(0.05 * (1 - 0.2 * 8 / 100))


def trained(make_trainer: Make, **keys: Any) -> PPOTrainer:
    trainer = make_trainer(**({"reward_funcs": differs} | keys))
    trainer.train()
    return trainer


def distance(one: PPOTrainer, other: PPOTrainer, *, critic: bool) -> float:
    theirs = dict(other.model.named_parameters())
    return max(
        float((x - theirs[name]).detach().abs().max())
        for name, x in one.model.named_parameters()
        if name.startswith("critic") == critic
    )


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("cliprange", 0.2, 0.001),
        ("epsilon_high", None, 0.0001),
        ("vf_coef", 0.1, 1.0),
        ("entropy_coef", 0.0, 0.5),
        ("num_ppo_epochs", 2, 1),
        ("steps_per_generation", 2, 1),
        ("num_generations", 1, 2),
        ("target_approx_kl", None, 1e-6),
        ("learning_rate", 3e-3, 1e-3),
    ],
)
def test_keys_of_the_update_change_the_policy(
    make_trainer: Make, key: str, one: Any, other: Any
) -> None:
    first, second = (trained(make_trainer, **{key: value}) for value in (one, other))
    assert distance(first, second, critic=False) > 1e-5


def test_a_table_of_completions_is_refused_where_samples_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"samples\.jsonl") as caught:
        tiny_args(tmp_path, log_completions=True)
    assert "sample_steps" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [("cliprange_value", 0.2, 1e-6), ("cliprange_value", None, 1e-6)],
)
def test_keys_of_the_value_loss_change_the_critic(
    make_trainer: Make, key: str, one: Any, other: Any
) -> None:
    first, second = (trained(make_trainer, **{key: value}) for value in (one, other))
    assert distance(first, second, critic=True) > 1e-6


def test_the_critic_has_its_own_learning_rate(make_trainer: Make) -> None:
    trainer = trained(make_trainer, critic_learning_rate=7e-3)
    rates = {
        name: group["lr"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
        for name, p in trainer.model.named_parameters()
        if p is parameter
    }
    assert set(rates) == {name for name, _ in trainer.model.named_parameters()}
    assert {rates[n] for n in rates if n.startswith("critic")} == {7e-3}
    assert {rates[n] for n in rates if not n.startswith("critic")} == {3e-3}


def test_warm_up_trains_the_critic_alone(make_trainer: Make) -> None:
    start = make_trainer()
    trainer = make_trainer(critic_warmup_steps=3, max_steps=3, weight_decay=0.1)
    trainer.train()
    assert distance(start, trainer, critic=False) == 0
    assert distance(start, trainer, critic=True) > 1e-3
    later = trained(make_trainer, critic_warmup_steps=3, max_steps=4)
    assert distance(start, later, critic=False) > 1e-4


def test_warm_up_sends_no_gradient_into_the_policy(make_trainer: Make) -> None:
    """Also where gradients cannot be dropped before the step, as under DeepSpeed."""
    trainer = make_trainer(critic_warmup_steps=1, entropy_coef=0.1)
    move(trainer)
    trainer.model.train()
    inputs = trainer.next_micro_batch(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model, inputs).backward()
    for name, gradient in gradient_of(trainer).items():
        assert bool(gradient.any()) == name.startswith("critic"), name


def test_too_much_kl_stops_the_updates_on_a_rollout(make_trainer: Make) -> None:
    """Two mini-batches, two epochs: the second is over the limit, so only the first counts."""
    trainer = trained(make_trainer, target_approx_kl=1e-9, max_steps=4)
    once = trained(make_trainer, max_steps=1)
    assert logged(trainer, "policy/stopped")[:2] == [0.0, 1.0]
    assert distance(trainer, once, critic=False) == 0
    assert distance(trainer, once, critic=True) == 0
    longer = trained(make_trainer, target_approx_kl=1e-9, max_steps=5)
    assert distance(longer, once, critic=False) > 1e-4  # the next rollout starts anew
    assert logged(longer, "policy/stopped") == [0.0, 1.0, 0.0]


def test_several_responses_a_prompt(make_trainer: Make) -> None:
    trainer = rollout_with(make_trainer, num_generations=4)
    rollout = trainer.buffer.rollout
    prompts = {tuple(ids.tolist()) for ids in rollout.prompt_ids}
    responses = {tuple(ids.tolist()) for ids in rollout.response_ids}
    assert (len(rollout), len(prompts)) == (8, 2)
    assert len(responses) > 2


def test_truncated_responses_can_be_left_out(make_trainer: Make) -> None:
    trainer = rollout_with(make_trainer, mask_truncated_completions=True)
    rollout = trainer.buffer.rollout
    ends = torch.isin(rollout.response_ids, torch.tensor(trainer.eos_token_ids)).any(dim=1)
    assert torch.equal(rollout.response_mask.any(dim=1), ends)
    assert rollout.response_attention.bool().any(dim=1).all()


def test_samples_are_written_every_n_rollouts(make_trainer: Make, tmp_path: Path) -> None:
    trainer = trained(make_trainer, sample_steps=2, num_samples=3, max_steps=12)
    path = Path(trainer.args.output_dir) / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [0] * 3 + [8] * 3
    assert set(rows[0]) == {"step", "prompt", "completion", "score", "kl"}
    silent = trained(make_trainer, sample_steps=0, folder=tmp_path / "silent")
    assert not (Path(silent.args.output_dir) / "samples.jsonl").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_iterations": 3}, "PPO calls this key num_ppo_epochs"),
        ({"epsilon": 0.3}, "PPO calls this key cliprange"),
        ({"normalize_advantages": True}, "PPO calls this key whiten_advantages"),
        ({"reward_clip_range": (-1.0, 1.0)}, "PPO calls this key score_clip"),
        ({"kl_estimator": "k4"}, "kl_estimator: 'k4' is unknown"),
        ({"critic": "none"}, "critic: 'none' is unknown"),
        ({"gamma": 1.5}, "gamma: 1.5 must be within"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs: 0 must be >= 1"),
        ({"temperature": 0.0}, "temperature: 0.0 must be > 0"),
        ({"vf_coef": -0.1}, "vf_coef: -0.1 must be >= 0"),
        ({"kl_control": "adaptive", "beta": 0.0}, "multiplies beta, which is 0"),
        ({"critic_init": "policy"}, "is for a critic of its own, and critic is head"),
        ({"deepspeed": "ds.json", "target_approx_kl": 0.1}, "makes its step within backward"),
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "not a multiple"),
        ({"num_generations": 3}, "divisible by num_generations"),
    ],
)
def test_values_that_cannot_be_meant(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_args(tmp_path, **keys)


def test_batches_as_documented(tmp_path: Path) -> None:
    args = tiny_args(
        tmp_path,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        steps_per_generation=8,
    )
    assert args.generation_batch_size == 32
    assert args.num_mini_batches == 4
    assert args.num_generations == 1
    assert args.num_iterations == args.num_ppo_epochs == 2
    again = dataclasses.replace(args, generation_batch_size=None)
    assert again.num_ppo_epochs == 2


def test_every_key_of_ours_has_help_with_its_source() -> None:
    inherited = {field.name for field in dataclasses.fields(PPOConfig.__mro__[1])}
    ours = [field for field in dataclasses.fields(PPOConfig) if field.name not in inherited]
    assert len(ours) >= 25
    for field in ours:
        assert len(field.metadata["help"]) > 30, field.name


def gradient_of(trainer: PPOTrainer) -> dict[str, Tensor]:
    return {
        name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
    }


def test_one_epoch_without_clip_is_reinforce_with_baseline(make_trainer: Make) -> None:
    """The gradient at ratio 1 is that of -mean_t A_t log pi(y_t), A from return minus value."""
    trainer = make_trainer(
        per_device_train_batch_size=8,
        steps_per_generation=1,
        num_ppo_epochs=1,
        cliprange=1e6,
        vf_coef=0.0,
        lam=1.0,
        beta=0.0,
        whiten_advantages=False,
        missing_eos_penalty=None,
    )
    move(trainer)
    trainer.model.train()
    inputs = trainer.next_micro_batch(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model, inputs).backward()
    found = gradient_of(trainer)
    trainer.model.zero_grad()
    rows = inputs.rows
    total, count = torch.zeros(()), 0
    for i in range(len(rows)):
        prompt = rows.prompt_ids[i][rows.prompt_attention[i].bool()]
        response = rows.response_ids[i][rows.response_mask[i]]
        text = trainer.processing_class.decode(response, skip_special_tokens=True)
        score = text.count("e") / 8
        output = trainer.model(
            input_ids=torch.cat([prompt, response])[None], output_hidden_states=True
        )
        states = output.hidden_states[-1][0, len(prompt) - 1 : -1]
        baseline = trainer.model.critic(states[None])[0].detach()
        logps = torch.log_softmax(output.logits[0, len(prompt) - 1 : -1], dim=-1)
        logps = logps.gather(1, response[:, None])[:, 0]
        total = total - ((score - baseline) * logps).sum()
        count += len(response)
    (total / count).backward()
    for name, gradient in gradient_of(trainer).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    assert max(g.abs().max() for g in found.values()) > 1e-4


def test_a_batch_of_8_equals_8_batches_of_1_by_accumulation(make_trainer: Make) -> None:
    found = []
    for micro, accumulation in ((8, 1), (1, 8), (2, 4)):
        trainer = make_trainer(
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            steps_per_generation=accumulation,
            num_ppo_epochs=2,
            max_steps=2,
            adam_epsilon=1e-3,
            generation_kwargs={"do_sample": False, "temperature": None, "top_k": None},
        )
        move(trainer)
        trainer.train()
        found.append((trainer, logged(trainer, "loss")))
    for trainer, losses in found[1:]:
        assert losses == pytest.approx(found[0][1], abs=2e-6)
        assert distance(found[0][0], trainer, critic=False) < 2e-6
        assert distance(found[0][0], trainer, critic=True) < 2e-6


def test_padding_more_changes_neither_logps_nor_loss(make_trainer: Make) -> None:
    trainer = rollout_with(make_trainer)
    rows = trainer.buffer.rollout.rows(trainer.buffer.plan[0])
    wider = dataclasses.replace(
        rows,
        **{
            field.name: pad(
                rows.__dict__[field.name],
                (5, 0) if field.name.startswith("prompt_") else (0, 3),
                value=0,
            )
            for field in dataclasses.fields(rows)
        },
    )
    losses = []
    for batch in (rows, wider):
        losses.append(trainer.compute_loss(trainer.model, MicroBatch(batch, 20.0)).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_generation_kwargs_that_transformers_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="generation_kwargs: transformers has no foo"):
        tiny_args(tmp_path, generation_kwargs={"foo": 1})
