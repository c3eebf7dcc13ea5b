"""LoRA: policy, reference, reward model and critic on one frozen base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from ppo_cases import differs, logged
from test_rewards import ANSWER, CHAT, save_adapter
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.errors import ConfigError
from alignment.ppo.adapters import active_adapter
from alignment.ppo.buffer import MicroBatch
from alignment.ppo.experience import respond
from alignment.ppo.reward_models import AdapterReward
from alignment.ppo.rewards import load_rewards
from alignment.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]


def lora(**keys: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **({"lora_dropout": 0.1} | keys))


def rollout_of(trainer: PPOTrainer) -> Any:
    trainer.model.train()
    return trainer.next_micro_batch(next(iter(trainer.get_train_dataloader()))).rows


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def load_adapter_reward(tiny_dir: Path, folder: Path) -> AdapterReward:
    save_adapter(tiny_dir, folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    (reward,), _ = load_rewards([str(folder)], policy_tokenizer=tokenizer)
    assert isinstance(reward, AdapterReward)
    return reward


@pytest.mark.parametrize("critic", ["head", "lora", "model"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_ratio_is_1_and_only_adapters_and_critic_move(
    make_trainer: Make, critic: str, checkpointing: bool
) -> None:
    trainer = make_trainer(
        reward_funcs=differs,
        critic=critic,
        activation_checkpointing=checkpointing,
        trainer={"peft_config": lora()},
        learning_rate=1e-2,
    )
    before = state(trainer.model)
    trainer.train()
    assert logged(trainer, "policy/ratio")[0] == 1.0
    assert logged(trainer, "objective/kl")[0] == 0.0
    after = state(trainer.model)
    moved = {name for name, x in after.items() if not torch.equal(x, before[name])}
    assert any(".lora_B.default" in name for name in moved)
    assert any("critic" in name for name in moved)
    assert not [n for n in moved if ".lora_" not in n and "critic" not in n]
    if critic == "lora":
        assert any(".lora_B.critic" in name for name in moved)


def test_the_critics_adapter_does_not_touch_policy_or_reference(make_trainer: Make) -> None:
    trainer = make_trainer(critic="lora", trainer={"peft_config": lora()})
    rows = rollout_of(trainer)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "critic" in name:
                parameter.add_(0.3)
        output = respond(trainer.model, rows, with_values=True)
    assert torch.equal(output.logps, rows.old_logps)
    assert output.state_values.abs().max() > 0.1
    trainer.buffer.rollout = None
    trainer.next_micro_batch(next(iter(trainer.get_train_dataloader())))
    assert trainer._metrics["train"]["objective/kl"][-1] == 0.0


@pytest.mark.parametrize("critic", ["head", "lora"])
def test_activation_checkpointing_changes_no_gradient(make_trainer: Make, critic: str) -> None:
    """A critic's layers must be recomputed with the critic's adapter, not the policy's."""
    found = []
    for checkpointing in (False, True):
        trainer = make_trainer(
            critic=critic, trainer={"peft_config": lora(init_lora_weights=False)}
        )
        rows = rollout_of(trainer)
        torch.nn.init.normal_(critic_head(trainer).weight)
        if checkpointing:
            trainer.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        trainer.compute_loss(trainer.model, MicroBatch(rows, 10.0)).backward()
        found.append({n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad})
    plain, checkpointed = found
    assert all(gradient is not None for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-7, rtol=1e-5)
    if critic == "lora":
        assert max(g.abs().max() for n, g in plain.items() if ".lora_A.critic" in n) > 1e-6


def test_a_lora_critic_reads_the_state_before_each_token(make_trainer: Make) -> None:
    trainer = make_trainer(critic="lora", trainer={"peft_config": lora()}, center_values=False)
    rows = rollout_of(trainer)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "critic" in name:
                torch.nn.init.normal_(parameter)
        values = respond(trainer.model, rows, with_values=True).state_values[0]
        prompt = rows.prompt_ids[0][rows.prompt_attention[0].bool()]
        response = rows.response_ids[0][rows.response_mask[0]]
        ids = torch.cat([prompt, response])[None]
        with active_adapter(trainer.model, "critic"):
            states = trainer.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        expected = critic_head(trainer)(states[len(prompt) - 1 : -1])[:, 0]
    torch.testing.assert_close(values[rows.response_mask[0]], expected, atol=1e-4, rtol=1e-4)


def critic_head(trainer: PPOTrainer) -> Any:
    critic = trainer.model.get_base_model().critic
    return critic.linear if "linear" in dict(critic.named_children()) else critic.head.linear


def test_a_lora_critic_needs_a_lora_policy(make_trainer: Make) -> None:
    with pytest.raises(ConfigError, match="critic: lora shares the frozen base"):
        make_trainer(critic="lora")


def test_a_trained_adapter_is_its_own_reference(tiny_dir: Path, make_trainer: Make) -> None:
    """KL is to the policy that PPO starts from, not to the bare base."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_dir)
    policy = get_peft_model(base, lora(init_lora_weights=False, lora_dropout=0.0))
    trainer = make_trainer(model=policy, learning_rate=1e-2)
    trainer.train()
    assert logged(trainer, "objective/kl")[0] == 0.0
    rows = rollout_of(trainer)
    with torch.no_grad(), policy.disable_adapter():
        bare = respond(trainer.model, rows).logps
    assert not torch.allclose(bare, rows.old_logps, atol=1e-3)


@pytest.mark.parametrize("is_new", [True, False])
def test_the_reference_is_what_the_policy_was(
    tiny_dir: Path, make_trainer: Make, is_new: bool
) -> None:
    """A new adapter that is off, or the copy of one that was there before PPO."""
    torch.manual_seed(0)
    if is_new:
        trainer = make_trainer(trainer={"peft_config": lora()})
    else:
        base = AutoModelForCausalLM.from_pretrained(tiny_dir)
        policy = get_peft_model(base, lora(init_lora_weights=False, lora_dropout=0.0))
        trainer = make_trainer(model=policy)
    before = state(trainer.model)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if ".lora_B.default" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    rollout_of(trainer)
    rollout = trainer.buffer.rollout
    trainer.model.load_state_dict(before, strict=False)
    with torch.no_grad():
        ref_logps = respond(trainer.model, rollout).logps
    kl = (rollout.old_logps - ref_logps)[rollout.response_mask].sum() / len(rollout)
    assert abs(kl) > 0.01
    found = trainer._metrics["train"]["objective/kl"][-1]
    assert found == pytest.approx(kl.item(), abs=1e-3)


@pytest.mark.parametrize("critic", ["head", "lora"])
def test_a_lora_reward_model_shares_the_policys_base(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make, critic: str
) -> None:
    reward = load_adapter_reward(tiny_dir, tmp_path / "rm")
    merged = load_adapter_reward(tiny_dir, tmp_path / "rm")
    _ = merged.classifier
    trainer = make_trainer(
        reward_funcs=reward, critic=critic, trainer={"peft_config": lora()}, max_steps=6
    )
    assert reward._classifier is None
    answers = [ANSWER, [{"role": "assistant", "content": "No."}]]
    trainer.model.train()
    shared_scores = reward(prompts=[CHAT] * 2, completions=answers)
    merged_scores = merged(prompts=[CHAT] * 2, completions=answers)
    assert trainer.model.training
    assert shared_scores == pytest.approx(merged_scores, abs=1e-5)
    before = {n: x.clone() for n, x in trainer.model.state_dict().items() if ".reward_0." in n}
    assert before
    trainer.train()
    assert reward._classifier is None
    after = trainer.model.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert reward(prompts=[CHAT] * 2, completions=answers) == pytest.approx(shared_scores)
    trainable = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert not [
        name
        for name in trainable
        if "reward_0" in name or (".lora_" not in name and "critic" not in name)
    ]


def test_sharing_can_be_turned_off_and_needs_the_same_base(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make
) -> None:
    import shutil

    reward = load_adapter_reward(tiny_dir, tmp_path / "rm")
    make_trainer(reward_funcs=reward, share_base=False, trainer={"peft_config": lora()})
    assert reward._classifier is not None
    other = shutil.copytree(tiny_dir, tmp_path / "other")
    reward = load_adapter_reward(other, tmp_path / "rm2")
    make_trainer(reward_funcs=reward, trainer={"peft_config": lora()})
    assert reward._classifier is not None


@pytest.mark.parametrize("critic", ["head", "lora"])
def test_saving_and_resuming_with_everything_on_one_base(
    tiny_dir: Path, tmp_path: Path, make_trainer: Make, critic: str
) -> None:
    reward = load_adapter_reward(tiny_dir, tmp_path / "rm")
    keys: dict[str, Any] = {"critic": critic, "save_strategy": "steps", "save_steps": 3}
    keys |= {"reward_funcs": reward, "trainer": {"peft_config": lora()}, "max_steps": 6}
    whole = make_trainer(**keys, folder=tmp_path / "whole")
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    names = {path.name for path in checkpoint.iterdir()}
    assert not [name for name in names if name.startswith("reward_")]
    assert ("critic" in names) == (critic == "lora")
    keys["reward_funcs"] = load_adapter_reward(tiny_dir, tmp_path / "rm")
    resumed = make_trainer(**keys, folder=tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    ours = resumed.model.state_dict()
    for name, x in whole.model.state_dict().items():
        assert torch.equal(x, ours[name]), name

    whole.save_model(str(tmp_path / "final"))
    base = AutoModelForCausalLM.from_pretrained(tiny_dir)
    loaded = PeftModel.from_pretrained(base, tmp_path / "final")
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        expected = whole.model.eval()(input_ids=ids).logits
        assert torch.equal(loaded.eval()(input_ids=ids).logits, expected)
