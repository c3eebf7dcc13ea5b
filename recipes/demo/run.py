"""`make demo`: the commands of the demo one after the other, each shown as a user would type it."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
DATA = "recipes/demo/data"
RUNS = "runs/demo"

#: What a command makes, and the command; what is there already is not made again.
PREPARATION = (
    (f"{RUNS}/base", f"align init-model tiny {RUNS}/base"),
    (
        f"{RUNS}/data/sft.jsonl",
        f"align data convert {DATA}/alpaca.json -o {RUNS}/data/sft.jsonl",
    ),
    (
        f"{RUNS}/data/pairs.jsonl",
        f"align data convert {DATA}/huozi.csv {DATA}/huozi.json {DATA}/rlhf.jsonl"
        f" -o {RUNS}/data/pairs.jsonl",
    ),
)
PIPELINE = "align run recipes/demo/pipeline.yaml"
EVALUATION = (
    f"align eval sft={RUNS}/sft dpo={RUNS}/dpo ppo={RUNS}/ppo --reference sft"
    f" --prompts {DATA}/held_out.jsonl --rule alignment.demo.rule:score"
    f" --reward-model {RUNS}/rm --max-new-tokens 24 --batch-size 64"
    f" --runs {RUNS} --output {RUNS}/eval --overwrite"
)


def main() -> None:
    """Run every command from the repository's root; stop at the first that fails."""
    start = time.monotonic()
    for output, command in PREPARATION:
        if (ROOT / output).exists():
            click.echo(f"{output} is there already")
        else:
            run(command)
    run(PIPELINE)
    run(EVALUATION)
    click.echo(f"the whole demo took {time.monotonic() - start:.0f} s")


def run(command: str) -> None:
    """Show a command and run it with this interpreter."""
    click.secho(f"\n$ {command}", bold=True)
    words = [sys.executable, "-m", "alignment", *shlex.split(command)[1:]]
    code = subprocess.run(words, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
