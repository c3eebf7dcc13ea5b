"""The `align data` commands; what a command needs is imported when it runs."""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from alignment.errors import AlignError, DataError

if TYPE_CHECKING:
    from data_tools.convert.output import Summary

FILE = click.Path(path_type=Path)
POLICIES = ("best-vs-worst", "all-pairs", "adjacent", "best-vs-rest", "best-vs-random")
FORMAT_HELP = "Format of all sources; found row by row without it."
Command: TypeAlias = Callable[..., None]
SHAPES = ("auto", "pairs", "sft", "kto", "prompts", "text", "llamafactory", "openai")


class DataGroup(click.Group):
    """A group that prints the user's mistakes in a line or two and exits with 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; anything but a user's mistake keeps its traceback."""
        try:
            with _rarely_collected():
                return super().invoke(ctx)
        except AlignError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


@contextlib.contextmanager
def _rarely_collected() -> Iterator[None]:
    """Look for cycles seldom: rows hold none, and the search costs a twentieth of a conversion."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _pairing_options(policy: str, most: int) -> Callable[[Command], Command]:
    """The options by which ranked and scored answers become pairs, the same for every command."""
    options = (
        click.option(
            "--pairing",
            type=click.Choice(POLICIES),
            default=policy,
            show_default=True,
            help="How ranked or scored answers become pairs.",
        ),
        click.option(
            "--max-pairs",
            type=click.IntRange(1),
            default=most,
            show_default=True,
            help="Most pairs a prompt under all-pairs.",
        ),
        click.option("--min-margin", type=float, default=0.0, help="Least difference of scores."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of best-vs-random."),
    )
    return lambda command: functools.reduce(
        lambda made, option: option(made), reversed(options), command
    )


def _known_codes(_ctx: click.Context, _option: click.Parameter, names: tuple[str, ...]) -> Any:
    """Refuse a name that is no code before the work, not after it."""
    from data_tools.checks import known

    known(names)
    return names


_fail_on = click.option(
    "--fail-on",
    multiple=True,
    callback=_known_codes,
    help="Also fail on this code, or on warn or info.",
)


def _given(name: str) -> bool:
    """Whether the user wrote an option of the running command."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _needed(option: str, other: str) -> None:
    """Refuse an option that says nothing without another, rather than ignore it."""
    if _given(option) and not _given(other):
        raise click.UsageError(f"{_spelt(option)} says nothing without {_spelt(other)}")


def _alone(option: str, options: Iterable[str], beside: set[str]) -> None:
    """Refuse options that another would make ignored."""
    for name in options:
        if name not in beside and _given(name):
            raise click.UsageError(f"{_spelt(name)} is settled by {_spelt(option)}: leave it out")


def _spelt(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _exit_on(found: Iterable[str], fail_on: tuple[str, ...]) -> None:
    """Exit 1, with their names, where codes were found that fail."""
    from data_tools.checks import failing

    if failed := failing(found, fail_on):
        click.echo(f"failed: {', '.join(failed)}")
        raise click.exceptions.Exit(1)


def _model_options(what: str) -> Callable[[Command], Command]:
    """The options that decide which tokens a row becomes, and which of them carry loss."""
    options = (
        click.option("--tokenizer", type=FILE, help=what),
        click.option("--max-length", type=click.IntRange(1), default=1024, show_default=True),
        click.option(
            "--as-chat/--plain",
            default=None,
            help="Text as chat messages. Default: as in training, if there is a template.",
        ),
        click.option(
            "--loss-on",
            type=click.Choice(["assistant", "last", "all"]),
            default="assistant",
            show_default=True,
            help="Which turns carry loss, as the key loss_on of the stages.",
        ),
    )
    return lambda command: functools.reduce(
        lambda made, option: option(made), reversed(options), command
    )


@click.group(cls=DataGroup, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Turn any preference data into JSONL that can be trusted."""


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, required=True, help="The JSON lines to write.")
@click.option("--format", default="", help=FORMAT_HELP)
@click.option("--to", type=click.Choice(SHAPES), default="auto", show_default=True)
@_pairing_options("best-vs-worst", 16)
@click.option("--on-error", type=click.Choice(["fail", "drop"]), default="fail", show_default=True)
@click.option("--preset", type=click.Choice(["chatlm"]), help="ChatLM-mini-Chinese's merge.")
@click.option("--defect", multiple=True, help="Of the preset, by name; `all` for every one.")
@click.option("--merge-splits", is_flag=True, help="Train and test files into one output.")
@click.option("--num-proc", type=click.IntRange(1), default=1, show_default=True)
@click.option("--strip-sentinels", is_flag=True, help="Empty inputs that say there is none.")
@click.option("--fix-mojibake", is_flag=True, help="Undo wrongly decoded text (ftfy).")
@click.option("--decode-backslash-n", is_flag=True, help="Literal \\n to newlines, huozi only.")
def convert(sources: tuple[str, ...], output: Path, **options: Any) -> None:
    """Convert SOURCES (files, folders, hub names) of any known format into one shape."""
    from data_tools.convert.repairs import Repairs
    from data_tools.convert.run import convert
    from data_tools.convert.writer import Conversion
    from data_tools.formats import Pairing

    _needed("defect", "preset")
    if options["preset"]:
        from data_tools.convert.chatlm import merge

        _alone("preset", options, {"preset", "defect"})
        _tell(merge(sources, output, defects=frozenset(options["defect"])))
        return
    pairing = Pairing(
        options["pairing"], options["max_pairs"], options["min_margin"], options["seed"]
    )
    conversion = Conversion(
        options["format"],
        options["to"],
        pairing,
        drop=options["on_error"] == "drop",
        merge_splits=options["merge_splits"],
        num_proc=options["num_proc"],
    )
    repairs = Repairs(
        options["strip_sentinels"], options["fix_mojibake"], options["decode_backslash_n"]
    )
    _tell(convert(list(sources), output, conversion, repairs=repairs))


def _tell(summaries: "list[Summary]") -> None:
    """Show what became of all rows; a conversion that leaves none has failed."""
    for summary in summaries:
        click.echo(str(summary))
    if not any(summary.rows_out for summary in summaries):
        raise DataError(
            f"{summaries[0].output}: no row was left of {sum(s.rows_in for s in summaries):,}",
            "the reasons are counted above",
        )


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--format", default="", help=FORMAT_HELP)
@_pairing_options("all-pairs", 1000)
@_model_options("A model's folder: adds the truncation checks.")
@_fail_on
@click.option("--report", type=FILE, help="Write the whole report as JSON.")
@click.option("--findings", type=FILE, help="Write every finding as JSON lines.")
def validate(sources: tuple[str, ...], **options: Any) -> None:
    """Check SOURCES; exit 1 on errors, or on what --fail-on names."""
    from data_tools.report import print_report, run_validate

    _needed("max_length", "tokenizer")
    _needed("as_chat", "tokenizer")
    _needed("loss_on", "tokenizer")
    report = run_validate(sources, options)
    print_report(report)
    _exit_on(report.totals, options["fail_on"])


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--format", default="", help=FORMAT_HELP)
@_pairing_options("best-vs-worst", 16)
@_model_options("A model's folder: adds lengths in tokens.")
@click.option("--page", type=FILE, help="Write a page with pictures, one HTML file.")
@click.option("--report", type=FILE, help="Write the numbers as JSON.")
def stats(sources: tuple[str, ...], **options: Any) -> None:
    """Show lengths, length bias, margins, languages, repeats and truncation of SOURCES."""
    from data_tools.report import run_stats

    _needed("max_length", "tokenizer")
    _needed("as_chat", "tokenizer")
    _needed("loss_on", "tokenizer")
    click.echo(run_stats(sources, options))


@data.command()
@click.argument("source", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="out.jsonl: out.train.jsonl, ...")
@click.option("--eval", "evaluation", type=float, default=0.05, show_default=True, help="Share.")
@click.option("--test", type=float, default=0.0, help="Share of a third part.")
@click.option("--seed", type=int, default=0, show_default=True)
def split(source: Path, output: Path, evaluation: float, test: float, seed: int) -> None:
    """Divide SOURCE so that no prompt is on two sides."""
    from data_tools.sets.curate import split

    parts = split(source, output, evaluation=evaluation, test=test, seed=seed)
    for side, summary in parts.items():
        share = summary.rows_out / max(summary.rows_in, 1)
        click.echo(f"{side:<6} {summary.rows_out:>9,} rows  {share:6.1%}  {summary.output}")


@data.command()
@click.argument("sources", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The rows kept, as they were.")
@click.option("--near", type=click.FloatRange(0, 1), default=0.0, help="Least likeness; 0: exact.")
@click.option("--by", type=click.Choice(["row", "prompt"]), default="row", show_default=True)
def dedup(sources: tuple[Path, ...], output: Path, near: float, by: str) -> None:
    """Keep the first of equal rows of SOURCES, or of nearly equal ones."""
    from data_tools.sets.curate import dedup

    click.echo(str(dedup(sources, output, near=near, by=by)))


@data.command()
@click.argument("train", type=FILE)
@click.argument("evaluations", nargs=-1, required=True, type=FILE)
@click.option(
    "--near",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Least likeness of prompts; 0: none.",
)
@click.option(
    "--ngram",
    type=click.IntRange(0),
    default=13,
    show_default=True,
    help="Words of an n-gram; 0: none.",
)
@_fail_on
@click.option("--report", type=FILE, help="Write every leaked row as JSON lines.")
def leak(train: Path, evaluations: tuple[Path, ...], **options: Any) -> None:
    """Find rows of EVALUATIONS that TRAIN gives away; exit 1 if it holds a prompt of theirs.

    Prompts that are nearly the same, and parts of rows in training text, fail by --fail-on warn.
    """
    from data_tools.report import run_leak

    text, found = run_leak(train, evaluations, options)
    click.echo(text)
    _exit_on(found, options["fail_on"])


@data.command()
@click.argument("source", type=FILE)
@click.option("--row", type=click.IntRange(1), default=1, show_default=True)
@click.option("--format", default="", help=FORMAT_HELP)
@_model_options("A model's folder; plain text without it.")
def show(source: Path, row: int, **options: Any) -> None:
    """Show a row as the model sees it: tokens, what carries loss, where it is cut."""
    from data_tools.report import run_show

    _needed("max_length", "tokenizer")
    _needed("as_chat", "tokenizer")
    _needed("loss_on", "tokenizer")
    for line in run_show(source, row, options):
        click.echo(line)
