"""One forward for log-probabilities, entropy and values, by either LM head."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ppo_cases import logged

from alignment.ppo import forward
from alignment.ppo.experience import respond
from alignment.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]


def rows_of(trainer: PPOTrainer) -> Any:
    trainer.model.train()
    return trainer.next_micro_batch(next(iter(trainer.get_train_dataloader()))).rows


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_both_heads_agree_with_their_gradients(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    trainer = make_trainer(temperature=temperature)
    rows = rows_of(trainer)
    torch.nn.init.normal_(trainer.model.critic.linear.weight)
    found = []
    for limit in (2**27, 0):
        monkeypatch.setattr(forward, "_MAX_LOGITS", limit)
        output = respond(trainer.model, rows, entropy="gradient", with_values=True)
        mask = rows.response_mask
        parts = [output.logps[mask], output.entropy[mask], output.state_values[mask]]
        trainer.model.zero_grad()
        (parts[0].sum() + 2 * parts[1].sum() + 3 * parts[2].sum()).backward()
        gradients = [p.grad.clone() for p in trainer.model.parameters()]
        found.append([*(x.detach() for x in parts), *gradients])
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(plain, fused, atol=2e-4, rtol=1e-4)
    assert found[0][1].min() > 1


def test_the_fused_head_keeps_the_ratio_at_1(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_MAX_LOGITS", 0)
    trainer = make_trainer(max_steps=2)
    trainer.train()
    assert logged(trainer, "policy/ratio")[0] == 1.0


def test_entropy_is_computed_where_it_is_wanted(make_trainer: Make) -> None:
    trainer = make_trainer()
    rows = rows_of(trainer)
    assert respond(trainer.model, rows).entropy is None
    value = respond(trainer.model, rows, entropy="value").entropy
    assert not value.requires_grad
    assert value[rows.response_mask].mean().item() == pytest.approx(5.76, abs=0.05)


def test_padding_has_no_logps(make_trainer: Make) -> None:
    trainer = make_trainer()
    rows = rows_of(trainer)
    attention = rows.response_attention.clone()
    attention[0, 3:] = 0
    shorter = replace(rows, response_attention=attention)
    logps = respond(trainer.model, shorter).logps
    assert logps[0, 3:].abs().max() == 0
    torch.testing.assert_close(logps[0, :3], rows.old_logps[0, :3], atol=1e-6, rtol=0)


def test_without_a_response_length_the_forward_is_the_models_own(make_trainer: Make) -> None:
    trainer = make_trainer()
    ids = torch.arange(5, 15)[None]
    expected = type(trainer.model).forward(trainer.model, input_ids=ids).logits
    assert torch.equal(trainer.model(input_ids=ids).logits, expected)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_mixture_of_experts_is_trained_with_its_balancing_loss(
    make_trainer: Make, tiny_dir: Any, tmp_path: Any, accumulation: int
) -> None:
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    losses = []
    for coefficient in (0.0, 1.0):
        trainer = make_trainer(
            model=str(tmp_path / "moe"),
            router_aux_loss_coef=coefficient,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
        )
        trainer.train()
        losses.append(logged(trainer, "loss")[0])
        assert logged(trainer, "policy/ratio")[0] == pytest.approx(1.0, abs=1e-6)
    assert losses[1] - losses[0] == pytest.approx(2.0, abs=1.0)
