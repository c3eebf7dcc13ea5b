"""Write one self-contained HTML page about an evaluation and its runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alignment.disk import write_text
from alignment.errors import DataError
from alignment.evaluate.records import Estimate, Evaluation
from alignment.report import charts
from alignment.report.answers import breakdowns, side_by_side
from alignment.report.curves import Curve, draw_curves, panels_of
from alignment.report.headline import headline, number, percent, verdict
from alignment.runs import Node, Run, find_runs


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    title: str
    hint: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One run: its record, its curves and its texts."""

    anchor: str
    folder: str
    run: Run
    summary: str
    facts: list[tuple[str, str]]
    final: list[tuple[str, str]]
    curves: list[Curve]


def write_report(
    output: Path,
    *,
    evaluation: Evaluation | None = None,
    runs: Path | None = None,
    title: str | None = None,
    answers: int = 24,
) -> Path:
    """Write the page to `output`; equal input gives an equal file.

    Args:
        output: The HTML file; its folder is created.
        evaluation: An evaluation from `evaluate` or `load_evaluation`.
        runs: A folder that contains runs, such as that of a pipeline.
        title: Title of the page. Default: the name of the runs' folder.
        answers: Number of prompts to show side by side; `answers.jsonl` has all of them.

    Returns:
        `output`.

    Raises:
        DataError: There is neither an evaluation nor a run to report.
        ConfigError: A run's record cannot be read.
    """
    forest = [] if runs is None else find_runs(runs)
    if evaluation is None and not forest:
        raise DataError(
            f"{runs or 'report'}: no run and no evaluation to report",
            "Give the folder of a pipeline, or of `align eval`.",
        )
    root = Path() if runs is None else runs.resolve()
    nodes = _flat(forest)
    sections = [_section(node, root, i) for i, node in enumerate(nodes)]
    page = _environment().get_template("page.html.j2")
    text = page.render(
        title=title or (root.name if runs is not None else "Evaluation"),
        evaluation=evaluation,
        forest=forest,
        by_folder={str(n.folder): s for n, s in zip(nodes, sections, strict=True)},
        sections=sections,
        **_evaluated(evaluation, answers),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text + "\n")
    return output


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("alignment.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, svg=Markup, plain=_plain)
    return environment


def _evaluated(evaluation: Evaluation | None, answers: int) -> dict[str, Any]:
    if evaluation is None:
        return {"verdict": "", "columns": [], "figures": [], "cards": [], "breakdowns": []}
    cards, counts = side_by_side(evaluation, most=answers)
    return {
        "verdict": verdict(evaluation),
        "columns": headline(evaluation),
        "figures": _figures(evaluation),
        "cards": cards,
        "counts": counts,
        "breakdowns": breakdowns(evaluation),
    }


def _figures(evaluation: Evaluation) -> list[Figure]:
    """Charts of what was measured: bars for every rule, histograms of rewards, gain against KL."""
    figures = []
    for i, rule in enumerate(evaluation.rules):
        items = [
            charts.Bar(model.name, model.rules[rule.name], color)
            for color, model in enumerate(evaluation.models)
            if rule.name in model.rules
        ]
        if items:
            svg = charts.bars(items, percent=rule.is_share, name=f"rule-{i}")
            title = f"Right ({rule.name})" if rule.is_share else f"Mean {rule.name}"
            figures.append(Figure(title, "With 95 % intervals", svg))
    figures += _trade(evaluation)
    rewards = [
        (model.name, [r for row in evaluation.rows if (r := row.answers[model.name].reward)], color)
        for color, model in enumerate(evaluation.models)
    ]
    if all(values for _, values, _ in rewards):
        svg = charts.histograms(rewards, x_label="reward", name="rewards")
        figures.append(Figure("Rewards of the answers", "By the reward model", svg))
    return figures


def _trade(evaluation: Evaluation) -> list[Figure]:
    """The gain of each model against its KL to the reference, which is at 0."""
    figures = []
    for rule in evaluation.rules[:1]:
        label = f"right ({rule.name})" if rule.is_share else rule.name
        gained = {model.name: model.rules.get(rule.name) for model in evaluation.models}
        figures += _against_kl(evaluation, gained, label, percent=rule.is_share)
    gained = {model.name: model.reward for model in evaluation.models}
    return figures + _against_kl(evaluation, gained, "reward", percent=False)


def _against_kl(
    evaluation: Evaluation, gained: dict[str, Estimate | None], label: str, *, percent: bool
) -> list[Figure]:
    points = []
    for color, model in enumerate(evaluation.models):
        is_reference = model.name == evaluation.reference
        x = Estimate(0.0, None, None, 0) if is_reference else model.kl
        y = gained[model.name]
        if x is not None and y is not None:
            points.append(charts.Point(model.name, x, y, color))
    if len(points) < 2:
        return []
    name = "trade-reward" if label == "reward" and not percent else "trade-rule"
    svg = charts.scatter(points, x_label="KL, nats", y_label=label, percent=percent, name=name)
    title = f"{label[:1].upper()}{label[1:]} against KL"
    return [Figure(title, "Higher is better; further right is further from the reference", svg)]


def _flat(forest: Sequence[Node]) -> list[Node]:
    found = [one for node in forest for one in (node, *_flat(node.children))]
    return sorted(found, key=lambda node: (node.run.started, node.run.name))


def _section(node: Node, root: Path, index: int) -> Section:
    run = node.run
    curves = draw_curves(node.folder, run.stage, name=f"run-{index}")
    final = [
        (key, number(value))
        for key, value in sorted(run.metrics.items())
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    return Section(
        anchor=f"run-{index}",
        folder=_relative(node.folder, root),
        run=run,
        summary=_summary(run, curves),
        facts=_facts(run),
        final=final,
        curves=curves,
    )


def _summary(run: Run, curves: Sequence[Curve]) -> str:
    """The first metric of its panels, on held-out rows if possible, and the duration."""
    held_out = [
        key for panel in panels_of(run.stage) for key, _ in panel.keys if key.startswith("eval_")
    ]
    judged = next((key for key in held_out if isinstance(run.metrics.get(key), int | float)), "")
    parts = [f"{judged} {number(run.metrics[judged])}"] if judged else []
    if not parts and curves:
        parts = [f"{curves[0].title.lower()} {curves[0].last}"]
    return " \u00b7 ".join([*parts, *filter(None, [_duration(run.started, run.ended)])])


def _facts(run: Run) -> list[tuple[str, str]]:
    git = run.git.get("commit", "")[:12] + (", with changes" if run.git.get("dirty") else "")
    pairs = [
        ("started", _moment(run.started)),
        ("took", _duration(run.started, run.ended)),
        ("device", run.device),
        ("git", git),
        ("fingerprint", run.fingerprint),
        ("command", " ".join(run.command)),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("error", run.error or ""),
    ]
    return [(name, value) for name, value in pairs if value]


def _relative(folder: Path, root: Path) -> str:
    if folder == root:
        return folder.name
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else ""


def _duration(started: float, ended: float | None) -> str:
    if not ended:
        return ""
    minutes, seconds = divmod(round(ended - started), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _plain(value: Any) -> str:
    """A setting as a user would write it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)
