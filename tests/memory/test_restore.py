"""What a tried batch changes is undone: on the trainer, in its model, in all random states."""

import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from alignment.memory.restore import LocalAccelerator, undone


class Counts(torch.nn.Module):
    """A layer with a buffer and a counter, as RoPE and batch norms have them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
        self.register_buffer("seen", torch.zeros(1))
        self.longest = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.longest = max(self.longest, len(x))
        self.seen += len(x)
        return self.linear(x)


def trainer_with(model: torch.nn.Module, folder: Path) -> Any:
    return SimpleNamespace(
        model=model,
        args=TrainingArguments(str(folder), use_cpu=True, report_to=[], learning_rate=0.5),
        state=TrainerState(global_step=3),
        accelerator=Accelerator(cpu=True),
        steps=7,
        _metrics={"train": defaultdict(list, {"loss": [1.0]}), "eval": defaultdict(list)},
    )


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_step_stays(tmp_path: Path, fails: bool) -> None:
    trainer = trainer_with(Counts(), tmp_path)
    seen = trainer.model.seen
    set_seed(0)
    expected = draw()
    set_seed(0)
    try:
        with undone(trainer) as lent:
            lent.model.train()
            lent.model(torch.rand(5, 2)).sum().backward()
            lent.steps += 1
            lent.args.learning_rate = 0.1
            lent.state.global_step += 1
            lent._metrics["train"]["loss"].append(9.0)
            draw()
            if fails:
                raise MemoryError
    except MemoryError:
        assert fails
    assert (trainer.steps, trainer.args.learning_rate, trainer.state.global_step) == (7, 0.5, 3)
    assert trainer._metrics["train"] == {"loss": [1.0]}
    assert trainer.model.longest == 0
    assert trainer.model.seen is seen
    assert seen.item() == 0
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert draw() == expected


def test_rope_of_dynamic_length_is_what_it_was(tmp_path: Path) -> None:
    """A text over the positions registers other frequencies under the same name."""
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with undone(trainer_with(model, tmp_path)) as lent:
            frequencies = model.model.rotary_emb.inv_freq.clone()
            lent.model(input_ids=torch.arange(30)[None])
            assert not torch.equal(model.model.rotary_emb.inv_freq, frequencies)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_an_accelerator_of_one_process_waits_for_no_other() -> None:
    class Waits:
        """Would wait for ever."""

        device = torch.device("cpu")

        def gather(self, tensor: Any) -> Any:
            raise AssertionError("waits")

        gather_for_metrics = reduce = gather

    local: Any = LocalAccelerator(Waits())
    x = torch.ones(2)
    assert local.gather(x) is local.gather_for_metrics(x) is local.reduce(x, reduction="sum") is x
    assert local.device.type == "cpu"
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = local.no_such_thing
