"""Draw charts with matplotlib as SVG for a page, in the colours and fonts of the page.

Each CSS variable has a placeholder colour, which is replaced in the SVG text by the variable, so
the same drawing works in the light and in the dark theme.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

if TYPE_CHECKING:
    from alignment.evaluate.records import Estimate

INK, MUTED, GRID, PAPER = "#00000a", "#00000b", "#00000c", "#00000d"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", PAPER: "card"}
SERIES = 8
WIDTH = 320

_STYLE: Any = {  # matplotlib types its keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "align",
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.solid_capstyle": "round",
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Bar:
    """A labelled value with its interval, in the colour of series `color`."""

    label: str
    estimate: Estimate
    color: int


@dataclass(frozen=True)
class Line:
    """Points of one curve; `dots` draws a marker at each value, for curves with few values."""

    label: str
    x: list[float]
    y: list[float]
    color: int
    dots: bool = False


@dataclass(frozen=True)
class Point:
    """A labelled point with intervals in both directions."""

    label: str
    x: Estimate
    y: Estimate
    color: int


def bars(items: Sequence[Bar], *, percent: bool, name: str) -> str:
    """Horizontal bars from zero with 95 % whiskers, in the given order."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(max(170, 40 + 34 * len(items)))
        places = [-i for i in range(len(items))]
        values = [item.estimate.value for item in items]
        colors = [series(item.color) for item in items]
        axes.barh(places, values, height=0.56, color=colors, alpha=0.85)
        for place, item in zip(places, items, strict=True):
            low, high = _bounds(item.estimate)
            axes.plot([low, high], [place, place], color=INK, linewidth=1.4)
            axes.plot([low, high], [place, place], "|", color=INK, markersize=7)
        axes.set_yticks(places, [_short(item.label) for item in items], color=INK)
        axes.set_ylim(places[-1] - 0.6, 0.6)
        axes.axvline(0, color=GRID, linewidth=1)
        if percent:
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(_PERCENT)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        _grid(axes, "x")
        return _svg(figure, name)


def lines(items: Sequence[Line], *, baseline: float | None, name: str) -> str:
    """Curves over training steps; dense ones are drawn faint with their moving average on top."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(170)
        for item in items:
            _draw_line(axes, item)
        if baseline is not None:
            axes.axhline(baseline, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(_SHORT)
        axes.margins(x=0.02, y=0.12)
        if len(items) > 1:
            axes.legend(loc="best", labelcolor=MUTED, handlelength=1.2, borderaxespad=0.2)
        _grid(axes, "y")
        return _svg(figure, name)


def scatter(items: Sequence[Point], *, x_label: str, y_label: str, percent: bool, name: str) -> str:
    """Labelled points with whiskers in both directions: the gain against its cost."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(190)
        for item in items:
            color = series(item.color)
            axes.plot(_bounds(item.x), [item.y.value] * 2, color=color, linewidth=1.4, alpha=0.6)
            axes.plot([item.x.value] * 2, _bounds(item.y), color=color, linewidth=1.4, alpha=0.6)
            axes.plot(item.x.value, item.y.value, "o", color=color, markersize=8)
            axes.annotate(
                _short(item.label),
                (item.x.value, item.y.value),
                xytext=(7, 7),
                textcoords="offset points",
                color=INK,
            )
        axes.set_xlabel(_short(x_label, 40))
        axes.set_ylabel(_short(y_label, 28))
        axes.margins(0.18)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if percent:
            axes.yaxis.set_major_formatter(_PERCENT)
        _grid(axes, "both")
        return _svg(figure, name)


def histograms(items: Sequence[tuple[str, list[float], int]], *, x_label: str, name: str) -> str:
    """Overlaid outlined histograms of (label, values, color) with shared bins."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(190)
        everything = [value for _, values, _ in items for value in values]
        bins = min(30, max(8, len(items[0][1]) // 8))
        reach = (min(everything), max(everything))
        for label, values, color in items:
            style: dict[str, Any] = {"bins": bins, "range": reach, "color": series(color)}
            axes.hist(values, alpha=0.14, **style)
            axes.hist(values, histtype="step", linewidth=1.6, label=_short(label), **style)
        axes.set_xlabel(_short(x_label, 40))
        axes.set_ylabel("answers")
        axes.legend(loc="best", labelcolor=MUTED, handlelength=1.2, borderaxespad=0.2)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        _grid(axes, "y")
        return _svg(figure, name)


def series(index: int) -> str:
    """The placeholder colour for the CSS variable of series `index`."""
    return f"#0001{index % SERIES:02x}"


def _figure(height: float) -> tuple[Figure, Axes]:
    """A figure of WIDTH x `height` points, made without pyplot and its global state."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _grid(axes: Axes, axis: Any) -> None:
    axes.grid(visible=True, axis=axis, linewidth=0.7)
    axes.set_axisbelow(True)


def _short(label: str, most: int = 16) -> str:
    """A label shortened to leave room for the drawing; the page shows it in full."""
    return label if len(label) <= most else label[: most - 1] + "\u2026"


def _bounds(estimate: Estimate) -> list[float]:
    low = estimate.value if estimate.low is None else estimate.low
    return [low, estimate.value if estimate.high is None else estimate.high]


def _draw_line(axes: Axes, item: Line) -> None:
    color = series(item.color)
    if item.dots:
        axes.plot(
            item.x, item.y, "o--", color=color, markersize=4, linewidth=1, label=_short(item.label)
        )
        return
    if len(item.x) < _CROWDED:
        axes.plot(item.x, item.y, color=color, linewidth=1.8, label=_short(item.label))
        return
    axes.plot(item.x, item.y, color=color, linewidth=0.8, alpha=0.3)
    axes.plot(item.x, _smooth(item.y), color=color, linewidth=1.8, label=_short(item.label))


_CROWDED = 40
_SHORT = FuncFormatter(lambda value, _: f"{value:.4g}".replace("-", "\u2212"))
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.3g} %")


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over a twelfth of the curve, which does not lag behind a trend."""
    reach = max(1, len(values) // 24)
    found = []
    for i in range(len(values)):
        side = min(reach, i, len(values) - 1 - i)
        window = values[i - side : i + side + 1]
        found.append(math.fsum(window) / len(window))
    return found


def _svg(figure: Figure, name: str) -> str:
    """Write the figure as SVG and adapt it to a page.

    Removes the XML head, the metadata (a date, URLs) and the fixed size. Prefixes ids with `name`,
    because they must be unique in the page. Replaces colours and fonts by those of the page.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the font
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::xlink)?|version|width|height)="[^"]*"', "", text, count=5)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    text = re.sub(r"#0001([0-9a-f]{2})", lambda m: f"var(--s{int(m[1], 16)})", text)
    return text.strip()
