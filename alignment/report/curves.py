"""Draw the training curves of a run: the panels that its stage defines."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.registry import STAGES, Panel
from alignment.report import charts
from alignment.report.headline import number
from alignment.runs import METRICS

MOST_POINTS = 400
_MOST_GUESSED = 6


@dataclass(frozen=True)
class Curve:
    """A drawn panel with the last value of its first metric."""

    title: str
    hint: str
    last: str
    svg: str


_DULL = {"step", "epoch", "time", "learning_rate", "num_tokens", "grad_norm", "total_flos"}


def draw_curves(folder: Path, stage: str, *, name: str) -> list[Curve]:
    """The panels of `stage` that `folder`'s metrics have points for; else the first metrics.

    `name` makes the ids within the drawings differ from those of other runs.
    """
    logged = _read(folder / METRICS)
    drawn = []
    panels = [p for p in panels_of(stage) if any(_points(logged, key) for key, _ in p.keys)]
    for i, panel in enumerate(panels or _guess(logged)):
        curve = _draw(panel, logged, f"{name}-{i}")
        drawn += [curve] if curve is not None else []
    return drawn


def panels_of(stage: str) -> tuple[Panel, ...]:
    """The panels of a stage by its name in a record, which this version may not have."""
    return STAGES[stage].panels if stage in STAGES else ()


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
    """Panels for metrics that no stage defines: the first ones that change."""
    keys = dict.fromkeys(key for line in logged for key in line)
    moving = [
        key
        for key in keys
        if key not in _DULL and len({value for _, value in _points(logged, key)}) > 1
    ]
    return [Panel(key, ((key, key),)) for key in moving[:_MOST_GUESSED]]


def _points(logged: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """The finite values of a metric as (step, value)."""
    return [
        (float(line["step"]), float(line[key]))
        for line in logged
        if isinstance(line.get(key), int | float) and not isinstance(line[key], bool)
    ]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbouring points, so that a long run does not make the page too large."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group)) for group in groups]


def _read(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file; the last line of an active run may be incomplete."""
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
