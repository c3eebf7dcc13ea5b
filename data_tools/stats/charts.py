"""Draws statistics as SVG inside one HTML page."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_tools.convert.output import short_names, table, written_whole

if TYPE_CHECKING:
    from data_tools.stats.measure import SourceStats

COLOURS = {"chosen": "#2b7a4b", "rejected": "#b3452f", "answer": "#2b5d8a", "prompt": "#888888"}
BINS = 40


def write_page(path: Path, sources: Sequence[SourceStats]) -> None:
    """Write one self-contained HTML file with the tables and charts of all sources."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("page.html.j2").render(
        sources=[(one.as_json(), pictures(one)) for one in sources],
        bias=svg(lambda axes: draw_bias(axes, sources), height=0.5 * len(sources) + 1.2)
        if any(one.bias.pairs for one in sources)
        else "",
        overview=table(overview(sources)),
    )
    with written_whole(path) as out:
        out.write(page.encode())


def overview(sources: Sequence[SourceStats]) -> list[tuple[str, ...]]:
    """Return the rows of the table on the terminal and the page."""
    head = ("source", "rows", "unusable", "records", "p50", "p95", "longer", "repeated", "cut")
    rows: list[tuple[str, ...]] = [head]
    names = short_names(one.source for one in sources)
    for one in sources:
        longest = one.lengths.get("chosen") or one.lengths.get("answer") or []
        ordered = sorted(longest)
        middle = f"{ordered[len(ordered) // 2]:,}" if ordered else ""
        high = f"{ordered[int(len(ordered) * 0.95)]:,}" if ordered else ""
        low_high = "{:.2f} to {:.2f}".format(*one.bias.interval()) if one.bias.pairs else ""
        longer = f"{one.bias.share:.2f} ({low_high})" if one.bias.pairs else ""
        cut = f"{one.truncation.cut / max(one.truncation.records, 1):.1%}" if one.truncation else ""
        counts = (f"{one.rows:,}", f"{one.unusable:,}", f"{sum(one.kinds.values()):,}")
        rows.append(
            (names[one.source], *counts, middle, high, longer, f"{one.repeated_prompts:,}", cut)
        )
    return rows


def pictures(one: SourceStats) -> list[tuple[str, str]]:
    """Return title and SVG of each chart for which a source has numbers."""
    drawn = (
        [("Length in characters", svg(lambda axes: draw_lengths(axes, one)))] if one.lengths else []
    )
    if one.languages:
        drawn.append(("Languages", svg(lambda axes: draw_languages(axes, one))))
    if one.margins:
        drawn.append(("Margins", svg(lambda axes: draw_margins(axes, one.margins))))
    if one.truncation and one.truncation.records:
        drawn.append(("Length in tokens", svg(lambda axes: draw_tokens(axes, one))))
    return drawn


def svg(draw: Callable[[Axes], None], *, height: float = 2.6) -> str:
    """Return what a function draws as an SVG element; equal numbers give equal bytes."""
    figure = Figure(figsize=(5.4, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    out = io.StringIO()
    # without a fixed salt and with a date, each run would write other bytes
    with mpl.rc_context({"svg.hashsalt": "align", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "<svg" + out.getvalue().partition("<svg")[2]


def draw_lengths(axes: Axes, one: SourceStats) -> None:
    """Draw the lengths of all parts as histograms on one log axis."""
    import numpy as np

    longest = max(max(values) for values in one.lengths.values())
    edges = np.geomspace(1, max(longest, 2) + 1, BINS).tolist()
    for part, values in one.lengths.items():
        axes.hist(values, edges, histtype="step", label=part, color=COLOURS.get(part, "black"))
    axes.set_xscale("log")
    axes.set_xlabel("characters")
    axes.set_ylabel("records")
    axes.legend(frameon=False)


def draw_languages(axes: Axes, one: SourceStats) -> None:
    """Draw the shares of languages, one bar per part."""
    names = sorted({name for counts in one.languages.values() for name in counts})
    left = dict.fromkeys(one.languages, 0.0)
    for name in names:
        shares = [counts[name] / sum(counts.values()) for counts in one.languages.values()]
        axes.barh(list(one.languages), shares, left=list(left.values()), label=name)
        left = {part: left[part] + share for part, share in zip(left, shares, strict=True)}
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def draw_margins(axes: Axes, margins: Sequence[float]) -> None:
    """Draw a histogram of margins; a line marks ties."""
    axes.hist(margins, BINS, color=COLOURS["chosen"])
    axes.axvline(0, color=COLOURS["rejected"], linewidth=1)
    axes.set_xlabel("margin (score of chosen - score of rejected)")
    axes.set_ylabel("pairs")


def draw_tokens(axes: Axes, one: SourceStats) -> None:
    """Draw a histogram of the longer side in tokens; a line marks max_length."""
    if one.truncation is None:
        return
    steps = sorted(one.truncation.lengths)
    axes.bar(steps, [one.truncation.lengths[s] for s in steps], 32, align="edge", color="#2b5d8a")
    axes.axvline(one.truncation.max_length, color=COLOURS["rejected"], linewidth=1)
    axes.set_xlabel(f"tokens with the template (line: max_length {one.truncation.max_length})")
    axes.set_ylabel("records")


def draw_bias(axes: Axes, sources: Sequence[SourceStats]) -> None:
    """Draw P(chosen longer) with its interval, one line per source."""
    shown = [one for one in sources if one.bias.pairs]
    for i, one in enumerate(shown):
        low, high = one.bias.interval()
        axes.plot([low, high], [i, i], color="#2b5d8a", linewidth=2)
        axes.plot([one.bias.share], [i], "o", color="#2b5d8a")
    axes.axvspan(0.4, 0.6, color="#dddddd", zorder=0)
    axes.axvline(0.5, color="#888888", linewidth=1)
    axes.set_yticks(range(len(shown)), list(short_names(one.source for one in shown).values()))
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("share of pairs in which chosen is longer (ties half)")
