"""The invariants of PPO on the real trainer and a tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_cases import logged, text_of

from alignment.ppo.experience import respond
from alignment.ppo.state import PPOState
from alignment.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]


def first_rollout(trainer: PPOTrainer) -> Any:
    """The rollout and first micro-batch that training would begin with."""
    trainer.model.train()
    return trainer.next_micro_batch(next(iter(trainer.get_train_dataloader())))


def ratio(trainer: PPOTrainer, rows: Any) -> torch.Tensor:
    with trainer.accelerator.autocast():
        logps = respond(trainer.model, rows, with_values=True).logps.float()
    return (logps - rows.old_logps).exp()[rows.response_mask]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_ratio_is_exactly_1_on_the_first_mini_batch(
    make_trainer: Make, temperature: float
) -> None:
    trainer = make_trainer(temperature=temperature, gradient_accumulation_steps=2)
    inputs = first_rollout(trainer)
    assert (ratio(trainer, inputs.rows) == 1).all()
    second = trainer.buffer.rollout.rows(trainer.buffer.plan[1])
    assert (ratio(trainer, second) == 1).all()


def test_the_logged_ratio_of_the_first_step_is_exactly_1(make_trainer: Make) -> None:
    trainer = make_trainer(gradient_accumulation_steps=2, num_ppo_epochs=2, max_steps=2)
    trainer.train()
    first, second = logged(trainer, "policy/ratio")
    assert first == 1.0
    assert second != 1.0
    assert logged(trainer, "policy/approx_kl")[0] == 0.0
    assert logged(trainer, "policy/clip_fraction")[0] == 0.0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_old_logps_are_those_of_the_sampling_distribution(
    make_trainer: Make, temperature: float
) -> None:
    """Against the plain logits of the model, row by row, with no padding at all."""
    trainer = make_trainer(temperature=temperature)
    first_rollout(trainer)
    rollout = trainer.buffer.rollout
    for row in range(len(rollout)):
        prompt = rollout.prompt_ids[row][rollout.prompt_attention[row].bool()]
        response = rollout.response_ids[row][rollout.response_mask[row]]
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.cat([prompt, response])[None]).logits[0]
        logps = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)
        expected = logps.gather(1, response[:, None])[:, 0]
        torch.testing.assert_close(
            rollout.old_logps[row][rollout.response_mask[row]], expected, atol=1e-5, rtol=0
        )


def test_ppo_learns_what_the_reward_pays_for(make_trainer: Make) -> None:
    trainer = make_trainer(
        per_device_train_batch_size=16,
        num_ppo_epochs=4,
        steps_per_generation=2,
        max_steps=160,
        beta=0.01,
        missing_eos_penalty=None,
        logging_steps=16,
        seed=1,
        prompts=[f"Say hello {number}." for number in range(64)],
    )
    trainer.train()
    scores = logged(trainer, "objective/score")
    assert scores[-1] > scores[0] + 0.05
    answers = [text_of([{"content": x}]) for x in generate(trainer, "A prompt never seen")]
    assert sum(answer.count("e") for answer in answers) / 8 / len(answers) > scores[0] + 0.05


def generate(trainer: PPOTrainer, prompt: str, count: int = 32) -> list[str]:
    messages = [[{"role": "user", "content": prompt}]] * count
    completions = trainer._generate(messages)[2]
    return [completion[0]["content"] for completion in completions]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def test_each_epoch_has_an_order_of_its_own_that_can_be_drawn_again(make_trainer: Make) -> None:
    trainer = make_trainer()
    sampler = trainer._get_train_sampler(trainer.train_dataset)
    orders = []
    for epoch in (0.0, 1.0, 0.0):
        trainer.state.epoch = epoch
        orders.append(list(dict.fromkeys(sampler)))
    first, second, again = orders
    assert first == again != second
    assert sorted(first) == sorted(second)


def test_each_pass_over_a_rollout_has_an_order_of_its_own(make_trainer: Make) -> None:
    trainer = make_trainer()
    first_rollout(trainer)
    rollout = trainer.buffer.rollout
    plans = [
        [index.tolist() for index in trainer.buffer.make_plan(rollout, number=1, epoch=epoch)]
        for epoch in (0, 1, 0)
    ]
    assert plans[0] == plans[2] != plans[1]
    assert {row for index in plans[1] for row in index} == set(range(len(rollout)))


def test_the_state_goes_through_a_file_whole(tmp_path: Path) -> None:
    state = PPOState(0.3, 7, 2, True, {"objective/kl": 1.5}, {"rung": {"kl_high": 1.0}})
    state.save(tmp_path)
    assert PPOState.load(tmp_path) == state


@pytest.mark.parametrize("step", [5, 6, 7, 8])
def test_resuming_within_or_between_rollouts_is_bit_identical(
    make_trainer: Make, tmp_path: Path, step: int
) -> None:
    """Four steps a rollout, three rollouts an epoch: a step anywhere in the second rollout."""
    keys: dict[str, Any] = {
        "max_steps": 14,
        "save_strategy": "steps",
        "save_steps": 1,
        "kl_control": "adaptive",
        "target_kl": 0.1,
        "kl_horizon": 100,
        "lr_scheduler_type": "linear",
        "folder": tmp_path / "whole",
    }
    whole = make_trainer(**keys)
    whole.train()
    checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
    resumed = make_trainer(**(keys | {"folder": tmp_path / "resumed"}))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.ppo_state.beta == whole.ppo_state.beta != 0.05
    for name, x in weights(whole.model).items():
        assert torch.equal(x, resumed.model.state_dict()[name]), name
    assert "critic.linear.weight" in weights(whole.model)
