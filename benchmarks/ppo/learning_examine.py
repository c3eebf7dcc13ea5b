"""Measuring during training, off the clock; also in the environment of TRL 1.12.

Shapes: B questions, P tokens of the longest, T tokens of the longest answer.
"""

import json
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

MAX_NEW_TOKENS = 24


class Examine(TrainerCallback):
    """Calls `measure` on the model every few steps, and takes that time off the clock.

    `measure` is told whether this is the start or the end, where more may be measured.
    """

    def __init__(self, measure: Callable[[Any, bool], dict[str, float]], *, steps: int) -> None:
        self.measure, self.steps = measure, steps
        self.found: list[dict[str, float]] = []
        self.spent: list[float] = []
        self.begin = 0.0
        self.apart = 0.0

    def look(self, model: Any, *, edge: bool) -> None:
        """Measure now."""
        before = time.process_time()
        self.spent.append(before - self.begin - self.apart)
        state = torch.get_rng_state()
        self.found.append(self.measure(model, edge))
        torch.set_rng_state(state)
        self.apart += time.process_time() - before

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the start."""
        self.begin = time.process_time()
        self.look(kwargs["model"], edge=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure after every few steps."""
        if state.global_step % self.steps == 0:
            self.look(kwargs["model"], edge=state.global_step == state.max_steps)


class DemoExam:
    """The demo's held-out questions: greedy answers by the hidden rule, samples for the rest."""

    def __init__(self, start: Path, reward: Path, questions: Path, rule: str) -> None:
        module, name = rule.split(":")
        self.rule = getattr(import_module(module), name)
        self.tokenizer = AutoTokenizer.from_pretrained(start, padding_side="left")
        self.reference = AutoModelForCausalLM.from_pretrained(start).eval()
        self.reward = AutoModelForSequenceClassification.from_pretrained(reward).eval()
        self.reward.config.pad_token_id = self.tokenizer.pad_token_id
        stats = json.loads((reward / "reward_stats.json").read_text(encoding="utf-8"))
        self.mean, self.std = stats["mean"], stats["std"]
        with questions.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        self.answers = [row["answer"] for row in rows]
        self.prompts = [[{"role": "user", "content": row["prompt"]}] for row in rows]
        self.batch = self.tokenizer.apply_chat_template(
            self.prompts,
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )

    def __call__(self, model: Any, edge: bool) -> dict[str, float]:
        """Share of right greedy answers; of samples (at the edges) also KL, entropy and reward."""
        was_training = model.training
        model.eval()
        with torch.no_grad():
            texts = self._texts(self._answer(model, do_sample=False))
            values = [answer in text for text, answer in zip(texts, self.answers, strict=True)]
            found = {"right": self._share(texts), "value": sum(values) / len(values)}
            if edge:
                torch.manual_seed(0)
                sampled = self._answer(model, do_sample=True)
                found["right_sampled"] = self._share(self._texts(sampled))
                found |= self._of_samples(model, sampled)
        model.train(was_training)
        return found

    def _answer(self, model: Any, *, do_sample: bool) -> Tensor:
        """Token ids of the answers, `(B, T)`, padding after the end."""
        keys = {"pad_token_id": self.tokenizer.pad_token_id, "max_new_tokens": MAX_NEW_TOKENS}
        keys["eos_token_id"] = self.tokenizer.eos_token_id
        draw: dict[str, Any] = {"do_sample": do_sample}
        if do_sample:
            draw |= {"top_k": 0, "top_p": 1.0, "temperature": 1.0}
        output: Tensor = model.generate(**self.batch, **keys, **draw)
        return output[:, self.batch["input_ids"].size(1) :]

    def _texts(self, ids: Tensor) -> list[str]:
        return list(self.tokenizer.batch_decode(ids, skip_special_tokens=True))

    def _share(self, texts: list[str]) -> float:
        marks = self.rule(self.prompts, texts, answer=self.answers)
        return sum(marks) / len(marks)

    def _of_samples(self, model: Any, responses: Tensor) -> dict[str, float]:
        real = responses != self.tokenizer.pad_token_id
        ids = torch.cat([self.batch["input_ids"], responses], dim=1)
        mask = torch.cat([self.batch["attention_mask"], real.long()], dim=1)
        width = responses.size(1)
        logps, reference = (
            m(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1].log_softmax(-1)
            for m in (model, self.reference)
        )
        entropy = -(logps.exp() * logps).sum(-1)
        taken = responses.unsqueeze(-1)
        ratio = (logps - reference).gather(-1, taken).squeeze(-1)
        scores = self.reward(input_ids=ids, attention_mask=mask).logits[:, 0]
        ended = (responses == self.tokenizer.eos_token_id).any(dim=1)
        return {
            "kl": (ratio * real).sum(1).mean().item(),
            "entropy": ((entropy * real).sum() / real.sum()).item(),
            "reward": ((scores - self.mean) / self.std).mean().item(),
            "tokens": real.sum(1).float().mean().item(),
            "ended": ended.float().mean().item(),
        }
