"""The `align data` commands. Each imports what it needs when it runs, to keep `--help` fast."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignment.errors import AlignError, DataError, user_errors
from data_tools.options import (
    FILE,
    alone,
    fail_on,
    model_options,
    needed,
    pairing_options,
    read_options,
)

if TYPE_CHECKING:
    from data_tools.convert.output import Summary
    from data_tools.formats import ReadOptions

OUTPUT_HELP = "The file to write: .jsonl, .json, .parquet, .csv or .tsv; - for standard output."
SHAPES = ("auto", "pairs", "sft", "kto", "prompts", "text", "llamafactory", "openai")


class DataGroup(click.Group):
    """A group that prints user errors in one or two lines and exits with 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors that are no user errors keep their traceback."""
        try:
            with user_errors(), _rarely_collected():
                return super().invoke(ctx)
        except AlignError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


@contextlib.contextmanager
def _rarely_collected() -> Iterator[None]:
    """Run the garbage collector rarely: rows have no cycles, and it takes 5 % of a conversion."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _exit_on(found: Iterable[str], fail_on: tuple[str, ...]) -> None:
    """Exit with 1 and print the codes that fail, if there are any."""
    from data_tools.checks import failing

    if failed := failing(found, fail_on):
        click.echo(f"failed: {', '.join(failed)}")
        raise click.exceptions.Exit(1)


@click.group(cls=DataGroup, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Convert, check, measure and split preference data."""


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, required=True, help=OUTPUT_HELP)
@read_options
@click.option(
    "--to",
    type=click.Choice(SHAPES),
    default="auto",
    show_default=True,
    help="Shape of the output; auto keeps all of the first record.",
)
@pairing_options("best-vs-worst", 16)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "drop"]),
    default="fail",
    show_default=True,
    help="What to do with a row that cannot be used.",
)
@click.option("--preset", type=click.Choice(["chatlm"]), help="The merge of ChatLM-mini-Chinese.")
@click.option(
    "--defect", multiple=True, help="Repeat a defect of the preset, or `all`. Repeatable."
)
@click.option("--merge-splits", is_flag=True, help="Write train and test files into one output.")
@click.option(
    "--num-proc",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes; for large JSON files.",
)
@click.option(
    "--strip-sentinels", is_flag=True, help="Empty an alpaca input that says there is none."
)
@click.option("--fix-mojibake", is_flag=True, help="Repair wrongly decoded text (ftfy).")
@click.option(
    "--decode-backslash-n", is_flag=True, help="Turn literal \\n into newlines, huozi only."
)
def convert(sources: tuple[str, ...], output: Path, **options: Any) -> None:
    """Convert SOURCES (files, folders, hub names, - for standard input) into one shape."""
    from data_tools.convert.repairs import Repairs
    from data_tools.convert.run import convert
    from data_tools.convert.writer import Conversion
    from data_tools.formats import Pairing

    needed("defect", "preset")
    if options["preset"]:
        from data_tools.convert.chatlm import merge

        alone("preset", options, {"preset", "defect", "encoding"})
        _report(
            merge(
                sources, output, defects=frozenset(options["defect"]), encoding=options["encoding"]
            )
        )
        return
    pairing = Pairing(
        options["pairing"], options["max_pairs"], options["min_margin"], options["seed"]
    )
    read = _read(options)
    conversion = Conversion(
        read["format"] or "",
        options["to"],
        pairing,
        drop=options["on_error"] == "drop",
        merge_splits=options["merge_splits"],
        num_proc=options["num_proc"],
        encoding=read["encoding"],
        columns=read["columns"],
    )
    repairs = Repairs(
        options["strip_sentinels"], options["fix_mojibake"], options["decode_backslash_n"]
    )
    _report(convert(list(sources), output, conversion, repairs=repairs))


def _read(options: dict[str, Any], *sources: str | Path) -> ReadOptions:
    """What the options of `read_options` say; prints the encodings of sources if they are given."""
    from data_tools.formats import located, read_options
    from data_tools.reading import other_encoding

    read = read_options(*(options[name] for name in ("format", "columns", "encoding")))
    for source in sources:
        for file, _ in located(source, read["columns"]):
            if other := other_encoding(file, read["encoding"]):
                click.echo(f"encoding: {other} of {file}", err=True)
    return read


def _report(summaries: list[Summary]) -> None:
    """Print the summaries.

    Raises:
        DataError: If no row was written.
    """
    for summary in summaries:
        # standard output is for the rows, if they go there
        click.echo(str(summary), err=str(summary.output) == "-")
    if not any(summary.rows_out for summary in summaries):
        rows = sum(summary.rows_in for summary in summaries)
        message = f"{summaries[0].output}: none of {rows:,} rows was written"
        raise DataError(message, "the reasons are listed above")


@data.command()
@click.argument("sources", nargs=-1, required=True)
@read_options
@pairing_options("all-pairs", 1000)
@model_options("Folder of a model; adds the truncation checks.")
@fail_on
@click.option("--report", type=FILE, help="Write the whole report as JSON.")
@click.option("--findings", type=FILE, help="Write all findings as JSON lines.")
def validate(sources: tuple[str, ...], **options: Any) -> None:
    """Check SOURCES; exit with 1 on errors, or on what --fail-on names."""
    from data_tools.report import print_report, run_validate

    needed("max_length", "tokenizer")
    needed("as_chat", "tokenizer")
    needed("chat_template", "tokenizer")
    needed("loss_on", "tokenizer")
    report = run_validate(sources, {**options, "read": _read(options)})
    print_report(report)
    _exit_on(report.totals, options["fail_on"])


@data.command()
@click.argument("sources", nargs=-1, required=True)
@read_options
@pairing_options("best-vs-worst", 16)
@model_options("Folder of a model; adds lengths in tokens.")
@click.option("--page", type=FILE, help="Write a page with charts as one HTML file.")
@click.option("--report", type=FILE, help="Write the numbers as JSON.")
def stats(sources: tuple[str, ...], **options: Any) -> None:
    """Show lengths, length bias, margins, languages, repeats and truncation of SOURCES."""
    from data_tools.report import run_stats

    needed("max_length", "tokenizer")
    needed("as_chat", "tokenizer")
    needed("chat_template", "tokenizer")
    needed("loss_on", "tokenizer")
    click.echo(run_stats(sources, {**options, "read": _read(options, *sources)}))


@data.command()
@click.argument("source", type=FILE)
@click.option(
    "-o", "--output", type=FILE, required=True, help="out.jsonl gives out.train.jsonl, ..."
)
@click.option(
    "--eval",
    "evaluation",
    type=float,
    default=0.05,
    show_default=True,
    help="Share of eval, from 0 to 1.",
)
@click.option("--test", type=float, default=0.0, help="Share of test. Default: none.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@read_options
def split(
    source: Path, output: Path, evaluation: float, test: float, seed: int, **options: Any
) -> None:
    """Split SOURCE so that no prompt is in two parts."""
    from data_tools.sets.curate import split

    read = _read(options, source)
    parts = split(source, output, evaluation=evaluation, test=test, seed=seed, read=read)
    for side, summary in parts.items():
        share = summary.rows_out / max(summary.rows_in, 1)
        click.echo(f"{side:<6} {summary.rows_out:>9,} rows  {share:6.1%}  {summary.output}")


@data.command()
@click.argument("sources", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The rows that are kept, unchanged.")
@click.option(
    "--near",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Least similarity of near duplicates. Default: only exact ones.",
)
@click.option(
    "--by",
    type=click.Choice(["row", "prompt"]),
    default="row",
    show_default=True,
    help="What is compared.",
)
@read_options
def dedup(sources: tuple[Path, ...], output: Path, near: float, by: str, **options: Any) -> None:
    """Keep the first of rows of SOURCES that are equal, or nearly equal."""
    from data_tools.sets.curate import dedup

    summary = dedup(sources, output, near=near, by=by, read=_read(options, *sources))
    click.echo(str(summary), err=str(output) == "-")


@data.command()
@click.argument("train", type=FILE)
@click.argument("evaluations", nargs=-1, required=True, type=FILE)
@click.option(
    "--near",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Least similarity of prompts; 0 to skip.",
)
@click.option(
    "--ngram",
    type=click.IntRange(0),
    default=13,
    show_default=True,
    help="Words in an n-gram; 0 to skip.",
)
@fail_on
@read_options
@click.option("--report", type=FILE, help="Write all leaked rows as JSON lines.")
def leak(train: Path, evaluations: tuple[Path, ...], **options: Any) -> None:
    """Find rows of EVALUATIONS that TRAIN contains; exit with 1 if it has one of their prompts.

    With --fail-on warn, nearly equal prompts and parts of rows in training text fail as well.
    """
    from data_tools.report import run_leak

    read = _read(options, train, *evaluations)
    text, found = run_leak(train, evaluations, {**options, "read": read})
    click.echo(text)
    _exit_on(found, options["fail_on"])


@data.command()
@click.argument("source", type=FILE)
@click.option(
    "--row", type=click.IntRange(1), default=1, show_default=True, help="Number of the row."
)
@read_options
@model_options("Folder of a model. Default: plain text.")
def show(source: Path, row: int, **options: Any) -> None:
    """Show a row as the model sees it: tokens, which carry loss, where it is cut off."""
    from data_tools.report import run_show

    needed("max_length", "tokenizer")
    needed("as_chat", "tokenizer")
    needed("chat_template", "tokenizer")
    needed("loss_on", "tokenizer")
    for line in run_show(source, row, {**options, "read": _read(options, source)}):
        click.echo(line)
