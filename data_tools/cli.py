"""The `align data` commands; what a command needs is imported when it runs."""

from pathlib import Path
from typing import Any

import click

from alignment.errors import AlignError

FILE = click.Path(path_type=Path)
POLICIES = ("best-vs-worst", "all-pairs", "adjacent", "best-vs-rest", "best-vs-random")
SHAPES = ("auto", "pairs", "sft", "kto", "prompts", "text", "llamafactory", "openai")


class DataGroup(click.Group):
    """A group that prints the user's mistakes in a line or two and exits with 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; anything but a user's mistake keeps its traceback."""
        try:
            return super().invoke(ctx)
        except AlignError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=DataGroup, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Turn any preference data into JSONL that can be trusted."""


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, required=True, help="The JSON lines to write.")
@click.option("--format", default="", help="Format of all sources; found row by row without it.")
@click.option("--to", type=click.Choice(SHAPES), default="auto", show_default=True)
@click.option("--pairing", type=click.Choice(POLICIES), default="best-vs-worst", show_default=True)
@click.option(
    "--max-pairs", type=click.IntRange(1), default=16, show_default=True, help="A prompt."
)
@click.option("--min-margin", type=float, default=0.0, help="Least difference of scores.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of best-vs-random.")
@click.option("--on-error", type=click.Choice(["fail", "drop"]), default="fail", show_default=True)
@click.option("--merge-splits", is_flag=True, help="Train and test files into one output.")
@click.option("--num-proc", type=click.IntRange(1), default=1, show_default=True)
@click.option("--strip-sentinels", is_flag=True, help="Empty inputs that say there is none.")
@click.option("--fix-mojibake", is_flag=True, help="Undo wrongly decoded text (ftfy).")
@click.option("--decode-backslash-n", is_flag=True, help="Literal \\n to newlines, huozi only.")
def convert(sources: tuple[str, ...], output: Path, **options: Any) -> None:
    """Convert SOURCES (files, folders, hub names) of any known format into one shape."""
    from data_tools.convert import Conversion, convert
    from data_tools.pairing import Pairing
    from data_tools.repairs import Repairs

    pairing = Pairing(
        options["pairing"], options["max_pairs"], options["min_margin"], options["seed"]
    )
    conversion = Conversion(
        options["format"],
        options["to"],
        pairing,
        drop=options["on_error"] == "drop",
        merge_splits=options["merge_splits"],
    )
    repairs = Repairs(
        options["strip_sentinels"], options["fix_mojibake"], options["decode_backslash_n"]
    )
    for summary in convert(list(sources), output, conversion, repairs=repairs):
        click.echo(str(summary))


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--format", default="", help="Format of all sources; found row by row without it.")
@click.option("--tokenizer", type=FILE, help="A model's folder: adds the truncation checks.")
@click.option("--max-length", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--fail-on", multiple=True, help="Also fail on this code, or on warn or info.")
@click.option("--report", type=FILE, help="Write the whole report as JSON.")
@click.option("--findings", type=FILE, help="Write every finding as JSON lines.")
def validate(sources: tuple[str, ...], **options: Any) -> None:
    """Check SOURCES; exit 1 on errors, or on what --fail-on names."""
    from data_tools.commands import run_validate

    failed = run_validate(list(sources), **options)
    if failed:
        click.echo(f"failed: {', '.join(failed)}")
        raise click.exceptions.Exit(1)
