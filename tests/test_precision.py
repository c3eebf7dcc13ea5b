"""One answer to whether a run computes in bfloat16, for settings, PPO's config and plans."""

from typing import Any

import pytest
import torch

from alignment.ppo.config import PPOConfig
from alignment.registry import STAGES
from alignment.settings import precision
from alignment.settings.precision import uses_bf16
from alignment.settings.resolve import build, resolve


@pytest.mark.parametrize(
    ("values", "with_gpu", "without"),
    [
        ({}, True, False),
        ({"bf16": None, "fp16": False, "use_cpu": False}, True, False),
        ({"fp16": True}, False, False),
        ({"use_cpu": True}, False, False),
        ({"bf16": True}, True, True),
        ({"bf16": False}, False, False),
        ({"bf16": True, "use_cpu": True}, True, True),
    ],
    ids=str,
)
def test_bf16_is_used_as_asked_for_else_if_a_gpu_can(
    values: dict[str, Any], with_gpu: bool, without: bool
) -> None:
    assert (uses_bf16(values, gpu=True), uses_bf16(values, gpu=False)) == (with_gpu, without)


@pytest.mark.parametrize(
    ("is_there", "can", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_this_machine_is_asked(
    is_there: bool, can: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: can)
    assert uses_bf16({}) is expected


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # TRL
def test_every_config_asks_that_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def has_none() -> bool:
        asked.append(1)
        return False

    monkeypatch.setattr(precision, "_gpu_has_bf16", has_none)
    for stage in STAGES:
        assert build(resolve(stage, []))[-1].bf16 is False
    assert PPOConfig(output_dir="out", report_to="none").bf16 is False
    assert len(asked) == len(STAGES) + 1
    assert build(resolve("sft", ["--bf16", "false"]))[-1].bf16 is False
    assert len(asked) == len(STAGES) + 1
