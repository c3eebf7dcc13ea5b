"""Training curves of a run: which metrics of its stage to draw, and how to read them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.report import charts
from alignment.report.headline import number
from alignment.runs.record import METRICS

MOST_POINTS = 400
_MOST_GUESSED = 6


@dataclass(frozen=True)
class Panel:
    """One small chart: metrics as (key, label), and what a good curve looks like."""

    title: str
    keys: tuple[tuple[str, str], ...]
    hint: str = ""
    baseline: float | None = None


@dataclass(frozen=True)
class Curve:
    """A drawn panel with the last value of its first metric."""

    title: str
    hint: str
    last: str
    svg: str


def _one(key: str, title: str, hint: str = "", baseline: float | None = None) -> Panel:
    return Panel(title, ((key, "train"), (f"eval_{key}", "held out")), hint, baseline)


_LANGUAGE = (
    _one("loss", "Loss", "Falls; held-out rows should fall with it"),
    _one("mean_token_accuracy", "Token accuracy", "Share of next tokens guessed right"),
    _one("entropy", "Entropy", "Nats a token; how open the model still is"),
)
PANELS: dict[str, tuple[Panel, ...]] = {
    "pt": _LANGUAGE,
    "sft": _LANGUAGE,
    "rm": (
        _one("accuracy", "Accuracy", "Share of pairs ranked as people ranked them", 0.5),
        _one("loss", "Loss", "log 2 is a coin's throw", math.log(2)),
        _one("margin", "Margin", "Reward of the chosen less that of the rejected", 0.0),
    ),
    "dpo": (
        _one("rewards/accuracies", "Accuracy", "Share of pairs ranked rightly", 0.5),
        _one("loss", "Loss", "Starts at log 2", math.log(2)),
        _one("rewards/margins", "Margin", "Implicit reward, chosen less rejected", 0.0),
        Panel(
            "Implicit rewards",
            (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")),
            "Both falling: the model leaves both answers",
            0.0,
        ),
        Panel("Log-probabilities", (("logps/chosen", "chosen"), ("logps/rejected", "rejected"))),
        _one("entropy", "Entropy", "Nats a token; how open the model still is"),
    ),
    "ppo": (
        Panel("Score", (("objective/score", "score"),), "By the reward model; rises"),
        Panel("KL to the reference", (("objective/kl", "KL"),), "Nats; rises and levels off", 0.0),
        Panel("Entropy", (("policy/entropy", "entropy"),), "A fall to zero is collapse"),
        Panel(
            "Explained variance",
            (("critic/explained_variance", "critic"),),
            "Of the returns, by the critic; 1 is perfect",
            0.0,
        ),
        Panel(
            "Clip fraction", (("policy/clip_fraction", "policy"),), "Above 0.3 steps are too big"
        ),
        Panel("Approximate KL", (("policy/approx_kl", "policy"),), "Of one update"),
        Panel("Response length", (("response/length", "tokens"),), "Tokens"),
        Panel("Ended by EOS", (("response/eos_rate", "share"),), "Share of responses"),
    ),
}
_DULL = {"step", "epoch", "time", "learning_rate", "num_tokens", "grad_norm", "total_flos"}


def draw_curves(folder: Path, stage: str, *, name: str) -> list[Curve]:
    """The panels of `stage` that `folder`'s metrics have points for; others where it has none.

    `name` sets the ids within the drawings apart from those of other runs.
    """
    logged = _read(folder / METRICS)
    drawn = []
    panels = [p for p in PANELS.get(stage, ()) if any(_points(logged, key) for key, _ in p.keys)]
    for i, panel in enumerate(panels or _guess(logged)):
        curve = _draw(panel, logged, f"{name}-{i}")
        drawn += [curve] if curve is not None else []
    return drawn


def _draw(panel: Panel, logged: list[dict[str, Any]], name: str) -> Curve | None:
    items = []
    for i, (key, label) in enumerate(panel.keys):  # colour 0 is the reference's grey
        points = _thin(_points(logged, key))
        if points:
            x, y = [step for step, _ in points], [value for _, value in points]
            items.append(charts.Line(label, x, y, i + 1, dots=key.startswith("eval_")))
    if not any(len(item.x) > 1 for item in items):
        return None
    svg = charts.lines(items, baseline=panel.baseline, name=name)
    return Curve(panel.title, panel.hint, number(items[0].y[-1]), svg)


def _guess(logged: list[dict[str, Any]]) -> list[Panel]:
    """Panels for a stage that is not in the table: the first metrics that move."""
    keys = dict.fromkeys(key for line in logged for key in line)
    moving = [
        key
        for key in keys
        if key not in _DULL and len({value for _, value in _points(logged, key)}) > 1
    ]
    return [Panel(key, ((key, key),)) for key in moving[:_MOST_GUESSED]]


def _points(logged: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) where the metric was logged as a finite number."""
    return [
        (float(line["step"]), float(line[key]))
        for line in logged
        if isinstance(line.get(key), int | float) and not isinstance(line[key], bool)
    ]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbours, so that a long run does not swell the page."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group)) for group in groups]


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a run that still writes may leave a broken last one."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int | float):
            lines.append(line)
    return lines
