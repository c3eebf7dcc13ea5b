"""Print a random sample of the changes that mutmut made and has not tried, drawn by a fixed seed.

mutmut run $(python benchmarks/mutants/sample.py --size 300)
"""

import random
import subprocess
import sys

import click


@click.command()
@click.option("--size", default=300, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--without", multiple=True, help="Beginnings of names that are left out.")
def main(size: int, seed: int, without: tuple[str, ...]) -> None:
    """Draw from all changes alike, so that the caught share of the sample estimates that of all."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "results", "--all", "true"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    results = (line.strip().rpartition(": ") for line in done.stdout.splitlines())
    names = sorted(name for name, _, status in results if status == "not checked")
    names = [name for name in names if not name.startswith(without)]
    click.echo("\n".join(random.Random(seed).sample(names, min(size, len(names)))))


if __name__ == "__main__":
    main()
