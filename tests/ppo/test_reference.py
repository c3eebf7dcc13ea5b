"""One rollout's updates against a slow, plain PPO written from the papers, row by row.

No padding, no batching, no masks, no TRL: full logits of each row alone, Python loops over tokens.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from alignment.ppo.trainer import PPOTrainer

TEMPERATURE = 0.8
BETA = 0.2
LAM = 0.9
GAMMA = 0.97
CLIP, CLIP_HIGH = 0.02, 0.03
CLIP_VALUE = 0.01
VF_COEF = 0.3
ENTROPY_COEF = 0.05
LR, CRITIC_LR = 3e-3, 1e-2


@dataclass
class Row:
    prompt: Tensor
    response: Tensor
    old_logps: list[float]
    old_values: list[float]
    advantages: list[float]
    returns: list[float]


def states(model: Any, head: nn.Linear, prompt: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    """All next-token log-probabilities and the values at the states before each token."""
    output = model(input_ids=torch.cat([prompt, response])[None], output_hidden_states=True)
    window = slice(len(prompt) - 1, -1)
    logps = torch.log_softmax(output.logits[0, window] / TEMPERATURE, dim=-1)
    return logps, head(output.hidden_states[-1][0, window])[:, 0]


def advantages_of(rewards: list[float], values: list[float]) -> list[float]:
    """GAE as a double sum, arXiv 1506.02438 eq. 16."""
    v = [*values, 0.0]
    delta = [rewards[t] + GAMMA * v[t + 1] - v[t] for t in range(len(rewards))]
    steps = range(len(rewards))
    return [sum((GAMMA * LAM) ** (s - t) * delta[s] for s in steps if s >= t) for t in steps]


def plain_rows(model: Any, ref: Any, head: nn.Linear, pairs: Any, scores: list[float]) -> list[Row]:
    parts = []
    for (prompt, response), score in zip(pairs, scores, strict=True):
        with torch.no_grad():
            logps, values = states(model, head, prompt, response)
            ref_logps, _ = states(ref, head, prompt, response)
        old = [float(logps[t, token]) for t, token in enumerate(response)]
        reference = [float(ref_logps[t, token]) for t, token in enumerate(response)]
        rewards = [-BETA * (a - b) for a, b in zip(old, reference, strict=True)]
        rewards[-1] += score
        parts.append((prompt, response, old, values.tolist(), rewards))
    errors = [
        sum(GAMMA ** (s - t) * rewards[s] for s in range(t, len(rewards))) - values[t]
        for *_, values, rewards in parts
        for t in range(len(rewards))
    ]
    shift = sum(errors) / len(errors)
    with torch.no_grad():
        head.bias.add_(shift)
    rows = []
    for prompt, response, old, values, rewards in parts:
        old_values = [v + shift for v in values]
        advantages = advantages_of(rewards, old_values)
        returns = [a + v for a, v in zip(advantages, old_values, strict=True)]
        rows.append(Row(prompt, response, old, old_values, advantages, returns))
    flat = [a for row in rows for a in row.advantages]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in flat) / (len(flat) - 1))
    for row in rows:
        row.advantages = [(a - mean) / deviation for a in row.advantages]
    return rows


def plain_loss(model: Any, head: nn.Linear, rows: list[Row]) -> Tensor:
    """Arxiv 1707.06347 eq. 9 over the tokens of a mini-batch."""
    total, count = torch.zeros(()), 0
    for row in rows:
        logps, values = states(model, head, row.prompt, row.response)
        for t, token in enumerate(row.response):
            ratio = (logps[t, token] - row.old_logps[t]).exp()
            cut = min(max(ratio, torch.tensor(1 - CLIP)), torch.tensor(1 + CLIP_HIGH))
            gain = min(ratio * row.advantages[t], cut * row.advantages[t])
            near = row.old_values[t] + (values[t] - row.old_values[t]).clamp(
                -CLIP_VALUE, CLIP_VALUE
            )
            miss = max((values[t] - row.returns[t]) ** 2, (near - row.returns[t]) ** 2) / 2
            entropy = -(logps[t].exp() * logps[t]).sum()
            total = total - gain + VF_COEF * miss - ENTROPY_COEF * entropy
            count += 1
    return total / count


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_updates_of_a_rollout_equal_a_plain_reference(
    make_trainer: Callable[..., PPOTrainer], accumulation: int
) -> None:
    def score(completions: list[Any], **columns: Any) -> list[float]:
        return [len(c[0]["content"]) / 10 - 1 for c in completions]

    trainer = make_trainer(
        reward_funcs=score,
        num_ends=60,
        per_device_train_batch_size=4 // accumulation,
        steps_per_generation=2 * accumulation,
        gradient_accumulation_steps=accumulation,
        num_ppo_epochs=2,
        max_steps=4,
        temperature=TEMPERATURE,
        beta=BETA,
        lam=LAM,
        gamma=GAMMA,
        cliprange=CLIP,
        epsilon_high=CLIP_HIGH,
        cliprange_value=CLIP_VALUE,
        vf_coef=VF_COEF,
        entropy_coef=ENTROPY_COEF,
        learning_rate=LR,
        critic_learning_rate=CRITIC_LR,
        missing_eos_penalty=0.5,
        max_grad_norm=0.05,
        adam_epsilon=1e-3,  # else Adam's first steps are signs, and rounding decides them
    )
    torch.manual_seed(3)
    with torch.no_grad():  # so that KL and values are not zero
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model = copy.deepcopy(trainer.accelerator.unwrap_model(trainer.model))
    del model.forward  # the class's own
    head = model.critic.linear
    ref = copy.deepcopy(trainer.ref_model)
    del ref.forward
    plans = []
    start_epoch = trainer.buffer.start_epoch

    def keep_plan(epoch: int) -> None:
        start_epoch(epoch)
        plans.append([index.tolist() for index in trainer.buffer.plan])

    trainer.buffer.start_epoch = keep_plan
    trainer.train()

    rollout = trainer.buffer.rollout
    pairs = [
        (
            rollout.prompt_ids[i][rollout.prompt_attention[i].bool()],
            rollout.response_ids[i][rollout.response_attention[i].bool()],
        )
        for i in range(len(rollout))
    ]
    assert len({len(response) for _, response in pairs}) > 2  # so that there is padding
    texts = trainer.processing_class.batch_decode([r for _, r in pairs], skip_special_tokens=True)
    eos = trainer.eos_token_ids
    scores = [
        len(text) / 10 - 1 - (0 if int(response[-1]) in eos else 0.5)
        for text, (_, response) in zip(texts, pairs, strict=True)
    ]
    rows = plain_rows(model, ref, head, pairs, scores)
    for i, row in enumerate(rows):
        mask = rollout.response_mask[i]
        for ours, plain in (
            (rollout.old_logps, row.old_logps),
            (rollout.values, row.old_values),
            (rollout.advantages, row.advantages),
            (rollout.returns, row.returns),
        ):
            assert ours[i][mask].tolist() == pytest.approx(plain, abs=2e-5)

    policy = [p for name, p in model.named_parameters() if not name.startswith("critic")]
    optimizer = torch.optim.AdamW(
        [{"params": policy}, {"params": list(head.parameters()), "lr": CRITIC_LR}],
        lr=LR,
        eps=1e-3,
        weight_decay=0.0,
    )
    before = {name: x.clone() for name, x in model.state_dict().items()}
    for plan in plans:
        for mini in range(0, len(plan), accumulation):
            index = [i for micro in plan[mini : mini + accumulation] for i in micro]
            optimizer.zero_grad()
            plain_loss(model, head, [rows[i] for i in index]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
    moved = 0.0
    ours = trainer.model.state_dict()
    ours["critic.linear.bias"] += ours.pop("critic._extra_state")  # what center_values moved
    del before["critic._extra_state"]
    for name, start in before.items():
        x = model.state_dict()[name]
        moved = max(moved, float((x - start).abs().max()))
        torch.testing.assert_close(ours[name], x, atol=1e-5, rtol=0, msg=lambda m, n=name: n + m)
    assert moved > 1e-3
