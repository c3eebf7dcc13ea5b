"""The headline table for a terminal."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignment.report.headline import Cell, headline, verdict

if TYPE_CHECKING:
    from alignment.evaluate.records import Evaluation


def render_table(evaluation: Evaluation, *, width: int = 100, color: bool = False) -> str:
    """Format one line per measure and one column per model: value, 95 % interval and change.

    Measures are rows because there are many of them and few models: 80 columns fit three models.

    Args:
        evaluation: The evaluation to show.
        width: Columns of the terminal.
        color: Whether to use ANSI colours.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for model in evaluation.models:
        is_reference = model.name == evaluation.reference
        table.add_column(Text(model.name).append("  reference" if is_reference else "", "dim"))
    for column in headline(evaluation):
        table.add_row(Text(column.label), *map(_text, column.cells))
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=color, no_color=not color)
    console.print(table)
    console.print(Text(verdict(evaluation)))
    if evaluation.reference:
        console.print(
            Text(f"95 % intervals; changes to {evaluation.reference} on the same prompts.", "dim")
        )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _text(cell: Cell) -> Text:
    if not cell.value:
        return Text("\u2013", "dim")
    text = Text(cell.value, "bold" if cell.best else "").append(f"  {cell.interval}", "dim")
    if cell.change:
        style = {"better": "green", "worse": "red"}.get(cell.verdict, "dim")
        text.append(f"\n{cell.change}", style)
    return text
