"""Pictures of learning: mean and range over seeds, against responses and against CPU seconds."""

import statistics
from pathlib import Path
from typing import Any

COLOURS = {
    "ppo": "#c0392b",
    "ppo-head": "#c0392b",
    "ppo-model": "#e0953c",
    "rloo": "#2c6fbb",
    "grpo": "#3a9d5d",
    "trl112": "#7d4e9e",
}


def draw(
    runs: list[dict[str, Any]],
    path: Path,
    *,
    measure: str,
    label: str,
    names: dict[str, str] | None = None,
) -> None:
    """Draw a row of two pictures for every rule.

    Args:
        runs: With `rule`, `algorithm`, `responses`, `cpu_seconds` and the curve `measure`.
        path: Of the SVG.
        measure: Key of what is drawn.
        label: Of it, on the axis.
        names: Of algorithms, where the key is not what to show.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "learning"
    from matplotlib import pyplot

    rules = list(dict.fromkeys(r["rule"] for r in runs))
    figure, grid = pyplot.subplots(len(rules), 2, figsize=(9, 3.2 * len(rules)), squeeze=False)
    for axes, rule in zip(grid, rules, strict=True):
        for algorithm, colour in COLOURS.items():
            chosen = [r for r in runs if r["rule"] == rule and r["algorithm"] == algorithm]
            if not chosen:
                continue
            curves = list(zip(*(r[measure] for r in chosen), strict=True))
            low, high = [min(c) for c in curves], [max(c) for c in curves]
            seconds = zip(*(r["cpu_seconds"] for r in chosen), strict=True)
            times = [statistics.mean(s) for s in seconds]
            for axis, x in ((axes[0], chosen[0]["responses"]), (axes[1], times)):
                name = (names or {}).get(algorithm, algorithm)
                axis.plot(x, [statistics.mean(c) for c in curves], color=colour, label=name)
                axis.fill_between(x, low, high, color=colour, alpha=0.12)
        axes[0].set(title=f"rule: {rule}", xlabel="responses generated", ylabel=label)
        axes[1].set(title=f"rule: {rule}", xlabel="CPU seconds")
        axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
