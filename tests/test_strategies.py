"""What is refused before a model is loaded: stages under ways of sharding that they fail with."""

import pytest

from alignment.errors import ConfigError
from alignment.registry import STAGES
from alignment.settings.strategies import launched_strategy, refuse_strategy

ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
FSDP1 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize(
    ("critic", "environment", "refused"),
    [
        ("head", {}, None),
        ("model", {}, None),
        ("model", ZERO2, None),
        ("head", ZERO3, None),
        ("lora", ZERO3, None),
        ("model", ZERO3, "critic: model does not run under ZeRO-3"),
        ("head", FSDP1, None),
        ("head", FSDP2, "ppo does not run under FSDP2"),
        ("model", FSDP2, "ppo does not run under FSDP2"),
    ],
)
def test_ppo_under_each_strategy(
    critic: str,
    environment: dict[str, str],
    refused: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    strategy = launched_strategy()
    for stage in set(STAGES) - {"ppo"}:
        refuse_strategy(STAGES[stage], {}, strategy)
    if refused is None:
        refuse_strategy(STAGES["ppo"], {"critic": critic}, strategy)
        return
    with pytest.raises(ConfigError, match=refused):
        refuse_strategy(STAGES["ppo"], {"critic": critic}, strategy)
