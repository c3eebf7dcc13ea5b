"""Signs that a run goes wrong, each reported once with what to do.

The alarms use the metrics of each rollout, so they cost nothing. Their memory is saved with each
checkpoint, so a resumed run reports nothing twice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignment.ppo.config import PPOConfig
    from alignment.trackers.base import Tracker

logger = logging.getLogger(__name__)

KL_OVER = 2.0  # times target_kl
COLLAPSE = 0.1  # of the first entropy
RUNAWAY = 2.0  # times the first length, or nearly all responses cut off
NEGATIVE_KL = -1.0  # nats a response; the estimate is noisy around 0, not far under it
FALL = 0.9  # of the best held-out measure so far


@dataclass(frozen=True)
class Alarm:
    """A condition on (metrics now, metrics at first), and the message if it lasts."""

    name: str
    rings: Callable[[dict[str, float], dict[str, float], PPOConfig], bool]
    message: str


ALARMS = (
    Alarm(
        "kl_high",
        lambda now, first, args: args.beta > 0 and now["objective/kl"] > KL_OVER * args.target_kl,
        "KL to the reference is {objective/kl:.1f} nats a response, over twice target_kl: the "
        "policy leaves what the reward model knows. Raise beta, lower learning_rate or "
        "num_ppo_epochs, or set kl_control: adaptive.",
    ),
    Alarm(
        "kl_negative",
        lambda now, first, args: now["objective/kl"] < NEGATIVE_KL,
        "KL to the reference is {objective/kl:.1f} nats, and a KL cannot be negative: responses "
        "are not sampled from the distribution that is scored. Set top_k: 0, top_p: 1.0, "
        "min_p and repetition_penalty to none, or kl_estimator: k3.",
    ),
    Alarm(
        "entropy_collapse",
        lambda now, first, args: now["policy/entropy"] < COLLAPSE * first["policy/entropy"],
        "entropy fell to {policy/entropy:.3f} nats a token, under a tenth of its start: all "
        "responses become one. Raise beta or entropy_coef, or lower learning_rate.",
    ),
    Alarm(
        "critic_useless",
        lambda now, first, args: now["critic/explained_variance"] < 0,
        "the critic explains less than a constant would ({critic/explained_variance:.2f}): "
        "advantages are noise. Raise critic_learning_rate, critic_warmup_steps or the rollout's "
        "size, or set critic: model.",
    ),
    Alarm(
        "length_runaway",
        lambda now, first, args: (
            now["response/length"] > RUNAWAY * first["response/length"]
            or (now["response/eos_rate"] < 0.2 < 0.5 < first["response/eos_rate"])
        ),
        "responses grew to {response/length:.0f} tokens and {response/eos_rate:.0%} end by "
        "themselves: the reward pays for length. Raise missing_eos_penalty, or look at what the "
        "reward model likes in samples.jsonl.",
    ),
    Alarm(
        "overoptimised",
        lambda now, first, args: now.get("held_out_falls", 0.0) > 0 < now["score_rises"],
        "the reward rises while the held-out measure falls: the policy games the reward. Stop "
        "and use an earlier checkpoint, raise beta, or train the reward model on such answers.",
    ),
)
_NEEDS_WARM_UP = {"critic_useless"}


class AlarmBell:
    """Finds what has been wrong for `alarm_patience` rollouts in a row; finds each fault once.

    Args:
        args: Settings of the run.
        memory: What the checkpoint holds of earlier rollouts; changed in place.
    """

    def __init__(self, args: PPOConfig, memory: dict[str, dict[str, float]]) -> None:
        self.args = args
        self.memory = memory
        for part in ("first", "last", "counts", "rung", "held_out"):
            memory.setdefault(part, {})

    def look(self, now: dict[str, float], *, warmed_up: bool) -> list[dict[str, str]]:
        """Check the metrics of a rollout; return the alarms to report, for `report_alarms`.

        Args:
            now: Metrics of the rollout and of its updates, by name.
            warmed_up: Whether the critic's warm-up is over.
        """
        memory = self.memory
        if not memory["first"]:
            memory["first"].update(now)
            return []
        held_out = memory["held_out"]
        derived = {
            "score_rises": now["objective/score"] - memory["first"]["objective/score"],
            "held_out_falls": float(
                bool(held_out) and held_out["now"] < held_out["best"] - _margin(held_out["best"])
            ),
        }
        rung = []
        for alarm in ALARMS:
            if alarm.name in _NEEDS_WARM_UP and not warmed_up:
                continue
            if self._lasts(alarm, now | derived):
                memory["rung"][alarm.name] = 1.0
                rung.append({"alarm": alarm.name, "message": alarm.message.format_map(now)})
        return rung

    def note_held_out(self, value: float) -> None:
        """Record a measure that training does not optimise (higher is better) at an evaluation."""
        held_out = self.memory["held_out"]
        held_out["now"] = value
        held_out["best"] = max(value, held_out.get("best", value))

    def _lasts(self, alarm: Alarm, now: dict[str, float]) -> bool:
        counts = self.memory["counts"]
        rings = alarm.rings(now, self.memory["first"], self.args)
        counts[alarm.name] = counts.get(alarm.name, 0) + 1 if rings else 0
        # ==, not >=: a fault that goes on is reported once
        lasts = rings and counts[alarm.name] == self.args.alarm_patience
        return lasts and alarm.name not in self.memory["rung"]


def _margin(best: float) -> float:
    return abs(best) * (1 - FALL) if math.isfinite(best) else 0.0


def report_alarms(rung: list[dict[str, str]], tracker: Tracker, *, step: int) -> None:
    """Print a line for each alarm and put it into the table "alarms" of the trackers."""
    for alarm in rung:
        logger.warning("PPO: %s", alarm["message"])
    tracker.log_table("alarms", rung, step=step)
