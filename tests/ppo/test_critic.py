"""Where values come from, and that saving, loading and resuming keep the critic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_rewards import save_adapter, save_classifier
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from alignment.errors import ConfigError
from alignment.ppo.critic import ModelCritic, ValueHead, head_of, without_critic
from alignment.ppo.experience import respond
from alignment.ppo.reward_functions import ScoreStats
from alignment.ppo.reward_models import ModelReward
from alignment.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]


def reward_model(folder: Path) -> ModelReward:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return ModelReward(model, AutoTokenizer.from_pretrained(folder), name="rm")


def rollout_of(trainer: PPOTrainer) -> Any:
    trainer.model.train()
    return trainer.next_micro_batch(next(iter(trainer.get_train_dataloader()))).rows


def test_a_head_starts_at_zero_and_reads_the_state_before_each_token(make_trainer: Make) -> None:
    trainer = make_trainer(center_values=False)
    rows = rollout_of(trainer)
    assert rows.values.abs().max() == 0
    torch.nn.init.normal_(trainer.model.critic.linear.weight)
    values = respond(trainer.model, rows, with_values=True).state_values
    prompt = rows.prompt_ids[0][rows.prompt_attention[0].bool()]
    response = rows.response_ids[0][rows.response_mask[0]]
    output = trainer.model(input_ids=torch.cat([prompt, response])[None], output_hidden_states=True)
    states = output.hidden_states[-1][0, len(prompt) - 1 : -1]
    expected = trainer.model.critic.linear(states)[:, 0]
    torch.testing.assert_close(values[0][rows.response_mask[0]], expected, atol=1e-5, rtol=0)


def test_a_critic_from_the_reward_model_begins_with_its_scores(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make
) -> None:
    reward = reward_model(save_classifier(tiny_dir, tmp_path / "rm"))
    trainer = make_trainer(reward_funcs=reward, critic="model", center_values=False)
    rows = rollout_of(trainer)
    length = rows.response_mask[0].sum()
    ids = torch.cat(
        [rows.prompt_ids[0][rows.prompt_attention[0].bool()], rows.response_ids[0][: length - 1]]
    )
    with torch.no_grad():
        hidden = reward.classifier.model(input_ids=ids[None]).last_hidden_state[0, -1]
        expected = reward.classifier.score(hidden).item()
    assert rows.values[0, length - 1].item() == pytest.approx(expected, abs=1e-5)
    assert expected != 0


def test_the_reward_model_itself_stays_as_it_was(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make
) -> None:
    raw = reward_model(save_classifier(tiny_dir, tmp_path / "rm"))
    reward = ModelReward(raw.classifier.train(), raw.tokenizer, name="rm")
    before = {name: x.clone() for name, x in reward.classifier.state_dict().items()}
    trainer = make_trainer(reward_funcs=reward, critic="model", critic_learning_rate=1e-2)
    start = {name: x.clone() for name, x in trainer.model.critic.state_dict().items()}
    trainer.train()
    assert not any(module.training for module in reward.classifier.modules())
    for name, x in reward.classifier.state_dict().items():
        assert torch.equal(x, before[name])
    moved = [not torch.equal(x, start[n]) for n, x in trainer.model.critic.state_dict().items()]
    assert sum(moved) > 10


def test_a_critic_from_a_lora_reward_model(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make
) -> None:
    from alignment.ppo.rewards import load_rewards

    save_adapter(tiny_dir, tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    rewards, _ = load_rewards([str(tmp_path / "rm")], policy_tokenizer=tokenizer)
    trainer = make_trainer(reward_funcs=rewards, critic="model", max_steps=2)
    assert rollout_of(trainer).values.abs().max() > 0
    trainer.train()


def test_a_critic_from_the_reward_model_begins_on_the_scale_of_the_scores(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make
) -> None:
    """Values of a raw reward model would be deviations away from normalised scores."""
    raw, known = (reward_model(save_classifier(tiny_dir, tmp_path / "rm")) for _ in range(2))
    known.stats = ScoreStats(mean=2.0, std=0.25)
    keys: dict[str, Any] = {"critic": "model", "center_values": False}
    rows = [
        rollout_of(make_trainer(reward_funcs=reward, normalize_reward=on, **keys))
        for reward, on in ((raw, False), (known, True), (known, False))
    ]
    mask = rows[0].response_mask
    torch.testing.assert_close(rows[1].values[mask], (rows[0].values[mask] - 2.0) / 0.25)
    assert torch.equal(rows[2].values[mask], rows[0].values[mask])


def test_a_critic_from_the_policy_begins_at_zero(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make
) -> None:
    reward = reward_model(save_classifier(tiny_dir, tmp_path / "rm"))
    trainer = make_trainer(
        reward_funcs=reward, critic="model", critic_init="policy", center_values=False
    )
    assert isinstance(trainer.model.critic, ModelCritic)
    assert rollout_of(trainer).values.abs().max() == 0
    own = {id(p) for p in trainer.model.critic.parameters()}
    shared = [n for n, p in trainer.model.named_parameters() if id(p) in own]
    assert all(name.startswith("critic.") for name in shared)


def test_a_reward_model_with_another_vocabulary_is_no_critic(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make
) -> None:
    reward = reward_model(save_classifier(tiny_dir, tmp_path / "rm"))
    reward.tokenizer.add_tokens(["one more"])
    with pytest.raises(ConfigError, match="no reward model has the policy's vocabulary"):
        make_trainer(reward_funcs=reward, critic="model", critic_init="reward_model")
    trainer = make_trainer(reward_funcs=reward, critic="model", center_values=False)
    assert rollout_of(trainer).values.abs().max() == 0


@pytest.mark.parametrize("critic", ["head", "model"])
def test_the_mean_value_follows_the_mean_return(make_trainer: Make, critic: str) -> None:
    """A reward that jumps from 7 to 11: no critic could learn that in one step."""
    level = [7.0]

    def constant(completions: list[Any], **columns: Any) -> list[float]:
        return level * len(completions)

    keys: dict[str, Any] = {"reward_funcs": constant, "critic": critic, "beta": 0.0}
    trainer = make_trainer(**keys, missing_eos_penalty=None)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    for level[0] in (7.0, 11.0):
        rollout = trainer.roll_out(batch)
        mask = rollout.response_mask
        assert rollout.values[mask].tolist() == pytest.approx([level[0]] * int(mask.sum()))
        assert rollout.advantages.abs().max() < 1e-3
        with torch.no_grad():
            values = respond(trainer.model, rollout, with_values=True).state_values
        torch.testing.assert_close(values[mask], rollout.values[mask])
    offset = head_of(trainer.model).offset
    level[0] = 3.0
    trainer.evaluate(trainer.train_dataset.select(range(2)))
    assert head_of(trainer.model).offset == offset != 0  # an evaluation moves nothing
    off = make_trainer(**keys, center_values=False)
    assert rollout_of(off).values.abs().max() == 0


def test_the_mean_return_is_that_of_discounted_rewards(make_trainer: Make) -> None:
    """Responses of many lengths, a score at the end: gamma^(tokens to come) of it a token."""
    gamma, rewards = 0.5, {"reward_funcs": lambda completions, **c: [4.0] * len(completions)}
    trainer = make_trainer(
        **rewards, num_ends=60, gamma=gamma, lam=0.3, beta=0.0, missing_eos_penalty=None
    )
    rows = rollout_of(trainer)
    lengths = trainer.buffer.rollout.response_mask.sum(dim=1).tolist()
    assert len(set(lengths)) > 2
    returns = [4.0 * gamma**later for length in lengths for later in range(length)]
    mean = sum(returns) / len(returns)
    assert rows.values[rows.response_mask].tolist() == pytest.approx(
        [mean] * rows.response_mask.sum()
    )


def test_the_critic_learns_in_the_precision_of_the_policy(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make
) -> None:
    """A critic in bfloat16 would lose most of its updates."""
    from peft import LoraConfig

    reward = reward_model(save_classifier(tiny_dir, tmp_path / "rm"))
    reward.classifier.to(torch.bfloat16)
    trainer = make_trainer(reward_funcs=reward, critic="model", max_steps=1)
    assert {p.dtype for p in trainer.model.critic.parameters()} == {torch.float32}
    assert reward.classifier.dtype == torch.bfloat16
    trainer.train()
    policy = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.bfloat16)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    frozen = make_trainer(
        model=policy, critic="model", critic_init="policy", trainer={"peft_config": lora}
    )
    assert {p.dtype for p in frozen.model.get_base_model().critic.parameters()} == {torch.float32}


def test_a_head_that_was_cast_keeps_its_offset() -> None:
    """DeepSpeed casts whole modules."""
    head = ValueHead(4)
    head.offset = 7.03
    values = head.bfloat16()(torch.randn(2, 3, 4))
    assert values.dtype == torch.float32
    assert values.unique().tolist() == [pytest.approx(7.03)]


@pytest.mark.parametrize("critic", ["head", "model"])
def test_vllm_is_sent_the_policy_alone(make_trainer: Make, critic: str) -> None:
    """TRL sends `model.named_parameters()`; the critic is back when the weights are sent."""
    model = make_trainer(critic=critic).model
    every = [name for name, _ in model.named_parameters()]
    with without_critic(model):
        sent = [name for name, _ in model.named_parameters()]
    assert sent == [name for name in every if "critic" not in name]
    assert len(sent) < len(every)
    assert [name for name, _ in model.named_parameters()] == every


@pytest.mark.parametrize("critic", ["head", "model"])
def test_the_saved_policy_loads_clean_and_the_critic_stands_beside_it(
    make_trainer: Make, tmp_path: Path, critic: str, recwarn: pytest.WarningsRecorder
) -> None:
    trainer = make_trainer(critic=critic, max_steps=4)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    model, found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert not found["unexpected_keys"]
    assert not found["missing_keys"]
    for name, x in model.state_dict().items():
        assert torch.equal(x, trainer.model.state_dict()[name])
    head = {"head": "value_head.safetensors", "model": "critic/value_head.safetensors"}[critic]
    weight = load_file(tmp_path / "saved" / head)["linear.weight"]
    assert weight.abs().max() > 0
    assert (tmp_path / "saved/critic/model.safetensors").exists() == (critic == "model")


@pytest.mark.parametrize("critic", ["model", "lora"])
def test_resuming_keeps_the_critic_bit_for_bit(
    make_trainer: Make, tmp_path: Path, critic: str
) -> None:
    from peft import LoraConfig

    keys: dict[str, Any] = {"critic": critic, "save_strategy": "steps", "save_steps": 3}
    if critic == "lora":
        keys["trainer"] = {
            "peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
        }
    whole = make_trainer(**keys, max_steps=6, folder=tmp_path / "whole")
    whole.train()
    resumed = make_trainer(**keys, max_steps=6, folder=tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    ours = resumed.model.state_dict()
    for name, x in whole.model.state_dict().items():
        assert torch.equal(x, ours[name]), name
    assert any("critic" in name and x.abs().max() > 0 for name, x in ours.items())


def test_a_checkpoint_with_another_critic_is_refused(make_trainer: Make, tmp_path: Path) -> None:
    make_trainer(save_strategy="steps", save_steps=2, max_steps=2).train()
    other = make_trainer(critic="model", folder=tmp_path / "other")
    with pytest.raises(ConfigError, match="no critic of this kind"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


@pytest.mark.parametrize("critic", ["head", "model", "lora"])
def test_the_best_checkpoint_brings_back_critic_and_kl_coefficient(
    make_trainer: Make, tmp_path: Path, critic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first evaluation is made the best; every weight must be that checkpoint's in the end."""
    from datasets import Dataset
    from peft import LoraConfig

    prompts = [[{"role": "user", "content": f"held out {i}"}] for i in range(4)]
    extra: dict[str, Any] = {"eval_dataset": Dataset.from_dict({"prompt": prompts})}
    if critic == "lora":
        extra["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    trainer = make_trainer(
        critic=critic, max_steps=6, save_strategy="steps", save_steps=2, eval_strategy="steps",
        eval_steps=2, per_device_eval_batch_size=4, load_best_model_at_end=True,
        metric_for_best_model="eval_falls", greater_is_better=True, kl_control="adaptive",
        target_kl=0.1, kl_horizon=100, trainer=extra,
    )  # fmt: skip
    seen: dict[int, tuple[dict[str, torch.Tensor], float]] = {}
    evaluate = trainer.evaluate

    def falling(*args: Any, **keys: Any) -> dict[str, float]:
        state = {name: x.clone() for name, x in trainer.model.state_dict().items()}
        seen[trainer.state.global_step] = state, trainer.ppo_state.beta
        return {**evaluate(*args, **keys), "eval_falls": -float(trainer.state.global_step)}

    monkeypatch.setattr(trainer, "evaluate", falling)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best, beta = seen[2]
    last, last_beta = seen[6]
    now = trainer.model.state_dict()
    assert any("critic" in name and not torch.equal(x, last[name]) for name, x in best.items())
    for name, x in best.items():
        assert torch.equal(x, now[name]), name
    assert trainer.ppo_state.beta == beta != last_beta
