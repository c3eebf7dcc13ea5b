"""Odd models, odd prompts, odd rewards, and input that is refused with a clear message."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from ppo_cases import PROMPTS, logged, share_of_e, tiny_args
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.errors import ConfigError, DataError
from alignment.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]


def finite(trainer: PPOTrainer) -> None:
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert logged(trainer, "policy/ratio")[0] == 1.0


def trainer_on(model: Any, tokenizer: Any, folder: Path, prompts: list[Any], **keys: Any) -> Any:
    return PPOTrainer(
        model=model,
        args=tiny_args(folder, **keys),
        reward_funcs=keys.pop("reward_funcs", share_of_e),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
    )


def test_several_eos_ids_all_end_a_response(tiny_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_dir, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    ends = list(range(100, 200))
    model.generation_config.eos_token_id = ends
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    trainer = trainer_on(model, tokenizer, tmp_path / "run", PROMPTS, temperature=1.5)
    assert set(ends) < set(trainer.eos_token_ids)
    trainer.train()
    finite(trainer)
    rollout = trainer.buffer.rollout
    is_end = torch.isin(rollout.response_ids, torch.tensor(trainer.eos_token_ids))
    for row, attention in zip(is_end, rollout.response_attention, strict=True):
        length = int(attention.sum())
        assert not row[: length - 1].any()
    assert 0.5 < logged(trainer, "response/eos_rate")[0] <= 1
    assert logged(trainer, "objective/score")[0] > -0.5


def copy_of(folder: Path, target: Path) -> Path:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def test_pad_may_be_eos(tiny_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = trainer_on(
        str(tiny_dir), tokenizer, tmp_path / "run", PROMPTS, max_completion_length=24
    )
    trainer.train()
    finite(trainer)
    rollout = trainer.buffer.rollout
    eos = tokenizer.eos_token_id
    for ids, attention in zip(rollout.response_ids, rollout.response_attention, strict=True):
        length = int(attention.sum())
        assert (ids[length:] == eos).all()
        assert eos not in ids[: length - 1]


def test_the_eos_itself_is_trained_on(tiny_dir: Path, tmp_path: Path) -> None:
    """The token that ends a response counts, and carries the score."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    model.generation_config.eos_token_id = list(range(50, 320))
    trainer = trainer_on(model, tokenizer, tmp_path / "run", PROMPTS, beta=0.0, lam=0.0, gamma=1.0)
    trainer.model.train()
    trainer.next_micro_batch(next(iter(trainer.get_train_dataloader())))
    rollout = trainer.buffer.rollout
    ended = rollout.response_mask.sum(dim=1) < 8
    assert ended.any()
    for i in ended.nonzero()[:, 0]:
        last = int(rollout.response_mask[i].sum()) - 1
        assert int(rollout.response_ids[i, last]) in trainer.eos_token_ids
        assert not rollout.returns[i, :last].any()


def test_prompts_of_one_token(tiny_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    prompts = ["a", "b", "c", "d"] * 4
    assert {len(tokenizer(p)["input_ids"]) for p in prompts} == {1}
    trainer = trainer_on(str(tiny_dir), tokenizer, tmp_path / "run", prompts)
    trainer.train()
    finite(trainer)
    assert trainer.buffer.rollout.prompt_ids.shape == (8, 1)


def test_prompts_of_very_different_lengths(tiny_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    prompts = ["a", "say " * 50, "hello", "x" * 20] * 4
    trainer = trainer_on(str(tiny_dir), tokenizer, tmp_path / "run", prompts)
    trainer.train()
    finite(trainer)


def test_all_responses_truncated(make_trainer: Make) -> None:
    trainer = make_trainer(max_completion_length=1, generation_kwargs={"suppress_tokens": [2]})
    trainer.train()
    finite(trainer)
    assert logged(trainer, "response/eos_rate")[0] == 0
    assert logged(trainer, "response/length")[0] == 1


def test_all_responses_truncated_and_left_out_train_nothing(make_trainer: Make) -> None:
    keys: dict[str, Any] = {"generation_kwargs": {"suppress_tokens": [2]}}
    start = make_trainer(**keys)
    trainer = make_trainer(mask_truncated_completions=True, **keys)
    trainer.train()
    for name, x in start.model.state_dict().items():
        assert torch.equal(x, trainer.model.state_dict()[name])


def test_all_rewards_equal_and_nothing_else_to_learn(make_trainer: Make) -> None:
    trainer = make_trainer(
        reward_funcs=lambda completions, **c: [0.0] * len(completions),
        beta=0.0,
        missing_eos_penalty=None,
    )
    start = make_trainer()
    trainer.train()
    assert logged(trainer, "objective/score")[0] == 0.0
    for name, x in start.model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], x, atol=1e-5, rtol=0)


def test_evaluation_reports_the_same_names(make_trainer: Make) -> None:
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": p}]} for p in PROMPTS[:4]])
    trainer = make_trainer(trainer={"eval_dataset": rows}, per_device_eval_batch_size=4)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(found["eval_loss"])
    row = trainer.state.log_history[-1]
    assert {"eval_objective/score", "eval_objective/kl", "eval_response/length"} <= set(row)
    trainer.train()
    finite(trainer)


# Input that cannot be used


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], "reward .*bad: returned 1 scores for 8 completions"),
        ([float("nan")] * 8, "reward .*bad: row 0 is nan"),
        (["x"] * 8, "reward .*bad: row 0 is 'x'"),
        ([None] * 8, "no reward function gave it a score"),
    ],
)
def test_a_bad_reward_ends_the_run_at_the_first_rollout(
    make_trainer: Make, answer: Any, message: str
) -> None:
    def bad(**columns: Any) -> Any:
        return answer

    with pytest.raises(DataError, match=message):
        make_trainer(reward_funcs=bad).train()


def test_a_prompt_longer_than_the_models_positions(make_trainer: Make) -> None:
    prompts = [*PROMPTS, "word " * 600]
    with pytest.raises(DataError, match=r"row 25: the prompt has \d+ tokens.*room for 504"):
        make_trainer(prompts=prompts)


def test_a_held_out_prompt_longer_than_the_models_positions(make_trainer: Make) -> None:
    held_out = Dataset.from_list([{"prompt": [{"role": "user", "content": "word " * 600}]}])
    with pytest.raises(DataError, match=r"eval row 1: the prompt has \d+ tokens"):
        make_trainer(trainer={"eval_dataset": held_out})


def test_too_few_prompts_for_one_rollout(make_trainer: Make) -> None:
    with pytest.raises(DataError, match="3 prompts, and one rollout needs 8"):
        make_trainer(prompts=PROMPTS[:3])


def test_rows_without_prompts(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column `prompt` \(they have text\)"):
        PPOTrainer(
            model=str(tiny_dir),
            args=tiny_args(tmp_path),
            reward_funcs=share_of_e,
            train_dataset=Dataset.from_list([{"text": "x"}] * 8),
            processing_class=AutoTokenizer.from_pretrained(tiny_dir),
        )


def test_a_policy_that_cannot_end(tiny_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    tokenizer.eos_token = None
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    with pytest.raises(ConfigError, match="no EOS token"):
        trainer_on(model, tokenizer, tmp_path / "run", PROMPTS)


def test_a_checkpoint_of_something_else(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / "ppo_state.json").unlink()
    with pytest.raises(ConfigError, match=r"no ppo_state\.json"):
        make_trainer(folder=tmp_path / "new").train(resume_from_checkpoint=str(checkpoint))


def test_bf16_trains(make_trainer: Make) -> None:
    trainer = make_trainer(bf16=True)
    trainer.train()
    finite(trainer)
    assert trainer.model.critic.linear.weight.dtype == torch.float32
    assert trainer.buffer.rollout.old_logps.dtype == torch.float32


def test_activation_checkpointing_changes_nothing(make_trainer: Make) -> None:
    plain = make_trainer(activation_checkpointing=False)
    plain.train()
    checkpointed = make_trainer(activation_checkpointing=True)
    checkpointed.train()
    finite(checkpointed)
    for name, x in plain.model.state_dict().items():
        torch.testing.assert_close(checkpointed.model.state_dict()[name], x, atol=1e-6, rtol=0)
