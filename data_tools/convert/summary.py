"""What became of the rows: counted per output, and shown as a table of plain text."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.reading import licences_of


@dataclass
class Summary:
    """The account of one output file.

    Attributes:
        output: The file.
        shape: The shape of its rows.
        rows_in: Rows read.
        rows_out: Rows written.
        dropped: Rows or pairs not written, by reason.
        formats: Rows in, by source and format.
        repaired: Rows changed, by repair.
        halved: Pairs of which only the chosen side was written, as `--to sft` asks.
        unified: Rows of plain text written as messages, because others are conversations.
    """

    output: Path
    shape: str = ""
    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    formats: Counter[tuple[str, str]] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    halved: int = 0
    unified: int = 0

    def __str__(self) -> str:
        lines = [f"{self.output} ({self.shape})"]
        lines += [
            f"  read     {count:>9,}  {source}: {name}"
            for (source, name), count in sorted(self.formats.items())
        ]
        lines += [
            f"  licence  {licence} of {source}"
            for source in sorted({source for source, _ in self.formats})
            for licence in licences_of(source, (n for s, n in self.formats if s == source))
        ]
        lines += [f"  dropped  {n:>9,}  {code}" for code, n in sorted(self.dropped.items())]
        lines += [f"  repaired {n:>9,}  {name}" for name, n in sorted(self.repaired.items())]
        if self.halved:
            lines.append(
                f"  {self.halved:,} pairs written without their rejected side, as SFT rows"
            )
        if self.unified:
            lines.append(f"  {self.unified:,} rows of text written as messages, like the others")
        lines.append(f"  {self.rows_in:,} rows in, {self.rows_out:,} out")
        if self.dropped:
            lines.append(f"  every dropped row is in {dropped_path(self.output)}")
        return "\n".join(lines)


def dropped_path(output: Path) -> Path:
    """Where the rows that an output lacks are listed."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".dropped.jsonl")


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as aligned plain text: the first column to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
