"""What a PPO run remembers besides weights and optimizer, so that a checkpoint resumes exactly.

A checkpoint may fall anywhere, also in the middle of a rollout: the rollout itself is saved (one
file a process), with the place in it, the KL coefficient and whether the rollout was given up.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from alignment.errors import ConfigError

STATE_FILE = "ppo_state.json"


@dataclass
class PPOState:
    """Counters that change while training; equal in all processes.

    `micro_steps` counts forward passes of training, `rollouts` the rollouts begun, `beta` is the
    KL coefficient now, `stopped` tells that the rest of this rollout is left unused, `found`
    holds the metrics of this rollout, and `alarms` what the alarms remember.
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
    def load(cls, folder: Path) -> "PPOState":
        """Read the state of a checkpoint.

        Raises:
            ConfigError: where the folder is no checkpoint of PPO.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            raise ConfigError(
                f"{folder}: no {STATE_FILE}, so this is no checkpoint of PPO", "start anew"
            )
        return cls(**json.loads(path.read_text(encoding="utf-8")))
