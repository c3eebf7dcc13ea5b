"""Prints hits of each check on the real slices, to be read by hand: the base of precision.md.

    python benchmarks/data/precision.py ../shared/data --code html --hits 50

A hit is a record with the code. They are drawn from all slices by a fixed seed, so that the same
code gives the same hits.
"""

import random
from collections import defaultdict
from pathlib import Path

import click

from data_tools.checks import visible
from data_tools.checks.validate import Located, validate
from data_tools.formats import examples
from data_tools.formats.record import Record

SEED = 0


def found_in(folder: Path) -> dict[str, list[Located]]:
    """All findings of rows on all slices but the labelled defects, by code."""
    found: dict[str, list[Located]] = defaultdict(list)
    for file in sorted(file for file in folder.rglob("*.*") if file.parent != folder):
        if file.name != "real_defects.jsonl":
            validate([file], each=lambda one: found[one.finding.code].append(one))
    return found


def text_of(located: Located) -> str:
    """The parts of the record that has a finding."""
    number = located.where.row
    for example in examples(located.where.source, on_error=lambda _: None):
        if example.row.number == number and isinstance(example.record, Record):
            one = example.record
            parts = {
                "prompt": one.prompt,
                "chosen": one.chosen,
                "rejected": one.rejected,
                "completion": one.completion,
                "messages": one.messages or "",
                "answers": one.answers,
            }
            return "\n".join(f"{name}: {value}" for name, value in parts.items() if value)
    return ""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--code", multiple=True, help="Codes to print. Default: only the counts of all.")
@click.option("--hits", default=50, show_default=True)
@click.option("--characters", default=400, show_default=True, help="Of each record; 0 for none.")
def main(folder: Path, code: tuple[str, ...], hits: int, characters: int) -> None:
    """Print the number of hits by code, and some hits of the codes that are named."""
    found = found_in(folder)
    for name, located in sorted(found.items()):
        click.echo(f"{len(located):>6,}  {name}")
    for name in code:
        every = sorted(found[name], key=lambda one: one.where)
        for one in sorted(random.Random(SEED).sample(every, min(hits, len(every)))):
            click.echo(f"\n{one.where}: {one.finding.part} {one.finding.found}")
            if characters:
                click.echo(visible(text_of(one)[:characters]))


if __name__ == "__main__":
    main()
