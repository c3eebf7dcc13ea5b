"""Options that several `align data` commands have, and rules about which go together."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import click

FILE = click.Path(path_type=Path)
# written out again here, since the table in formats/pairing.py is too slow to import for help;
# a test compares the two
POLICIES = ("best-vs-worst", "all-pairs", "adjacent", "best-vs-rest", "best-vs-random")
Command: TypeAlias = Callable[..., None]


def pairing_options(policy: str, most: int) -> Callable[[Command], Command]:
    """Add the options by which ranked and scored answers become pairs."""
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
            help="Most pairs per prompt with all-pairs.",
        ),
        click.option("--min-margin", type=float, default=0.0, help="Least difference of scores."),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Random seed of best-vs-random."
        ),
    )
    return lambda command: functools.reduce(
        lambda made, option: option(made), reversed(options), command
    )


def _known_codes(_ctx: click.Context, _option: click.Parameter, names: tuple[str, ...]) -> Any:
    """Reject unknown codes before the work starts, not after it."""
    from data_tools.checks import known

    known(names)
    return names


fail_on = click.option(
    "--fail-on",
    multiple=True,
    callback=_known_codes,
    help="Also fail on this code, or from this severity on: warn, info. Repeatable.",
)


def _checked_encoding(_ctx: click.Context, _option: click.Parameter, name: str | None) -> Any:
    """Reject an unknown encoding before anything is read."""
    from data_tools.reading import checked_encoding

    return name and checked_encoding(name)


encoding_option = click.option(
    "--encoding",
    callback=_checked_encoding,
    help="Encoding of text files, such as gb18030. Default: detected for each file.",
)


def read_options(command: Command) -> Command:
    """Add the options that say how rows are to be read."""
    options = (
        click.option(
            "--format", default="", help="Format of all rows. Default: detected for each row."
        ),
        click.option(
            "--columns",
            default="",
            help="Which columns hold which parts: chosen=answer_good,prompt=question.",
        ),
        encoding_option,
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


def _given(name: str) -> bool:
    """Whether the user gave an option of the running command."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def needed(option: str, other: str) -> None:
    """Reject an option that has no effect without another one.

    Raises:
        click.UsageError: If it is given without the other.
    """
    if _given(option) and not _given(other):
        raise click.UsageError(f"{_spelt(option)} has no effect without {_spelt(other)}")


def alone(option: str, options: Iterable[str], allowed: set[str]) -> None:
    """Reject options that another one makes useless.

    Raises:
        click.UsageError: If any but those in `allowed` is given.
    """
    for name in options:
        if name not in allowed and _given(name):
            raise click.UsageError(
                f"{_spelt(name)} has no effect with {_spelt(option)}: leave it out"
            )


def _spelt(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def model_options(what: str) -> Callable[[Command], Command]:
    """The options that decide which tokens a row becomes, and which of them carry loss."""
    options = (
        click.option("--tokenizer", type=FILE, help=what),
        click.option(
            "--max-length",
            type=click.IntRange(1),
            default=1024,
            show_default=True,
            help="In tokens.",
        ),
        click.option(
            "--chat-template",
            "--chat_template",  # as the stages spell it, and messages about templates with them
            metavar="NAME",
            help="Another chat template: a known one, a file or a model's folder.",
        ),
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
