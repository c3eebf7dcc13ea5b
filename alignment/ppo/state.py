"""What a run of PPO saves in addition to weights and optimizer, so that it resumes exactly.

A checkpoint may be within a rollout. Then the rollout is saved too, one file per process, with the
place in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from alignment.errors import ConfigError

STATE_FILE = "ppo_state.json"


@dataclass
class PPOState:
    """What changes while training; equal in all processes.

    Attributes:
        beta: The KL coefficient.
        micro_steps: Forward passes of training so far.
        rollouts: Rollouts so far, with the one in use.
        stopped: The rest of this rollout is not used.
        found: The metrics of this rollout.
        alarms: The memory of the alarms.
    """

    beta: float
    micro_steps: int = 0
    rollouts: int = 0
    stopped: bool = False
    found: dict[str, float] = field(default_factory=dict)
    alarms: dict[str, dict[str, float]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the state to a checkpoint folder."""
        text = json.dumps(asdict(self), indent=2)
        (folder / STATE_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PPOState:
        """Read the state of a checkpoint.

        Raises:
            ConfigError: the folder is no checkpoint of PPO.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            raise ConfigError(
                f"{folder}: no {STATE_FILE}, so this is no checkpoint of PPO",
                "start again with --overwrite",
            )
        return cls(**json.loads(path.read_text(encoding="utf-8")))
