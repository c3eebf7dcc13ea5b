"""The `align` command: finds the subcommand and runs it; imports nothing heavy."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from alignment import __version__
from alignment.errors import AlignError, user_errors
from alignment.models.renamed import quiet_libraries
from alignment.registry import STAGES
from alignment.secrets import guard_output, redact_text
from data_tools.options import encoding_option, read_options

_PASS_THROUGH = {"ignore_unknown_options": True, "help_option_names": []}
_SECTIONS = {
    "Stages": tuple(STAGES),
    "Pipelines": ("run", "plan", "runs", "eval", "report"),
    "Models and data": ("init-model", "merge", "data"),
}


class Align(click.Group):
    """Commands in sections; `data` is imported only when it is used."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Find a command; the data tools are a group of their own, and `reject` needs a model."""
        if name == "data":
            group: click.Group = importlib.import_module("data_tools.cli").data
            group.add_command(importlib.import_module("alignment.reject.command").reject)
            return group
        if name == "plan":
            command: click.Command = importlib.import_module("alignment.plan.command").plan
            return command
        return super().get_command(ctx, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the sections."""
        return [name for names in _SECTIONS.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the commands by section."""
        for title, names in _SECTIONS.items():
            rows = [(name, _summary(self, ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)


def _summary(group: Align, ctx: click.Context, name: str) -> str:
    if name == "data":
        return "Convert, check, split and show preference data"
    command = group.get_command(ctx, name)
    assert command is not None
    return command.get_short_help_str(limit=80)


@click.group(cls=Align, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="align")
def main() -> None:
    """Preference alignment on one machine, stage by stage or as one pipeline.

    Every stage takes recipes and flags: align dpo recipe.yaml --beta 0.3
    """


def _add_stage(name: str, summary: str) -> None:
    @main.command(name, short_help=summary, context_settings=_PASS_THROUGH)
    @click.argument("argv", nargs=-1, type=click.UNPROCESSED)
    def command(argv: tuple[str, ...]) -> None:
        if {"--help", "-h"} & set(argv):
            from alignment.settings.help import print_help

            print_help(STAGES[name], everything=False)
            return
        from alignment.pipeline.launch import relaunch

        words = relaunch(name, list(argv))
        importlib.import_module("alignment.training.run").main(name, words)


for _stage in STAGES.values():
    _add_stage(_stage.name, _stage.summary)


@main.command("run", short_help="Run a pipeline, skipping what is up to date")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print the commands that would run.")
@click.option("--only", multiple=True, metavar="STAGE", help="Run only this stage (repeatable).")
@click.option("--from", "start", metavar="STAGE", help="Run this stage and those after it.")
@click.option("--force", is_flag=True, help="Also run stages that are up to date.")
@click.option(
    "--set", "overrides", multiple=True, metavar="STAGE.KEY=VALUE", help="Override a key."
)
def run_command(
    file: Path,
    dry_run: bool,
    only: tuple[str, ...],
    start: str | None,
    force: bool,
    overrides: tuple[str, ...],
) -> None:
    """Run the stages of a pipeline FILE in order, each in its own process."""
    from alignment.pipeline.file import read_pipeline
    from alignment.pipeline.run import plan_pipeline, run_pipeline

    pipeline = read_pipeline(file, overrides)
    plans = plan_pipeline(pipeline, only=only, start=start, force=force)
    if not dry_run:
        sys.exit(run_pipeline(plans))
    for plan in plans:
        click.echo(f"# {plan.step.name}: {plan.action} ({plan.reason})")
        if plan.action in ("run", "resume"):
            click.echo(plan.pasteable)


@main.command("runs", short_help="List runs with their lineage as a tree")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
def runs_command(folder: Path) -> None:
    """List the runs under FOLDER, each below the model that it started from."""
    from rich import print as rich_print
    from rich.markup import escape
    from rich.tree import Tree

    from alignment.runs import Node, describe_run, find_runs

    def grow(tree: Tree, nodes: tuple[Node, ...] | list[Node]) -> None:
        for node in nodes:
            grow(tree.add(escape(describe_run(node, folder))), node.children)

    if not folder.is_dir():
        raise AlignError(f"{folder}: no such folder", "name the folder that holds your runs")
    tree = Tree(escape(str(folder)))
    grow(tree, find_runs(folder))
    rich_print(tree)


@main.command("eval", short_help="Compare models on held-out prompts, with one page")
@click.argument("models", nargs=-1, required=True, metavar="NAME=FOLDER...")
@click.option("--prompts", type=click.Path(path_type=Path), required=True, help="Held-out rows.")
@read_options
@click.option(
    "--rule", "rules", multiple=True, metavar="MODULE:FUNCTION", help="Rule that scores an answer."
)
@click.option("--reward-model", metavar="FOLDER", help="Reward model for scores and win rates.")
@click.option("--reference", metavar="NAME", help="Model that the others are compared with.")
@click.option("--runs", type=click.Path(path_type=Path), help="Runs to draw on the page.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder.")
@click.option("--max-new-tokens", default=128, show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", default=0, show_default=True)
@click.option("--limit", type=int, help="Use only the first prompts.")
@click.option("--as-chat/--plain", default=None, help="Wrap string prompts as chat messages.")
@click.option("--overwrite", is_flag=True, help="Replace an evaluation that is in the folder.")
def eval_command(
    models: tuple[str, ...],
    prompts: Path,
    rules: tuple[str, ...],
    reward_model: str | None,
    reference: str | None,
    runs: Path | None,
    output: Path,
    **how: Any,
) -> None:
    """Answer held-out prompts with every model, score and compare the answers, write a page.

    NAME=FOLDER names a model in the tables. The default name is the last part of FOLDER.
    """
    from alignment.evaluate import NamedModel, Options, evaluate
    from alignment.report import render_table, write_report

    pairs = [word.partition("=") if "=" in word else (Path(word).name, "", word) for word in models]
    evaluation = evaluate(
        [NamedModel(name, folder) for name, _, folder in pairs],
        prompts=prompts,
        output_dir=output,
        rules=rules,
        reward_model=reward_model,
        reference=reference,
        options=Options(**how),
    )
    page = write_report(output / "report.html", evaluation=evaluation, runs=runs)
    width = shutil.get_terminal_size().columns
    click.echo(render_table(evaluation, width=width, color=sys.stdout.isatty()))
    click.echo(f"page: {page}")


@main.command("report", short_help="Write one page from runs and an evaluation")
@click.argument("runs", type=click.Path(path_type=Path))
@click.option(
    "--eval", "evaluation", type=click.Path(path_type=Path), help="Folder of `align eval`."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page; RUNS/report.html.")
def report_command(runs: Path, evaluation: Path | None, output: Path | None) -> None:
    """Write the page of the runs under RUNS: lineage, curves, settings and an evaluation."""
    from alignment.evaluate import load_evaluation
    from alignment.report import write_report

    found = load_evaluation(evaluation) if evaluation else None
    click.echo(f"page: {write_report(output or runs / 'report.html', evaluation=found, runs=runs)}")


@main.command("init-model", short_help="Make a tiny bilingual model, offline, in seconds")
@click.argument("preset")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Text for the tokenizer: .txt files, or any that the stages read.",
)
@encoding_option
@click.option("--seed", default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace a model that is in FOLDER.")
def init_model_command(
    preset: str,
    folder: Path,
    corpus: tuple[Path, ...],
    encoding: str | None,
    seed: int,
    overwrite: bool,
) -> None:
    """Build the model PRESET (tiny) in FOLDER with a fresh tokenizer and random weights."""
    from alignment.models.presets import init_model
    from data_tools.formats import texts_of_files

    texts = [text for path in corpus for text in texts_of_files(path, encoding=encoding)]
    init_model(preset, folder, corpus=texts or None, seed=seed, overwrite=overwrite)
    click.echo(f"{preset}: made in {folder}")


@main.command("merge", short_help="Merge a LoRA adapter into its base model")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Write into a FOLDER that is not empty.")
def merge_command(adapter: Path, folder: Path, overwrite: bool) -> None:
    """Merge ADAPTER into its base, write the model to FOLDER and check that it answers the same."""
    from alignment.models.imports import import_heavy

    import_heavy("alignment.models.merge")
    from alignment.models.merge import merge

    change = merge(adapter, folder, overwrite=overwrite)
    click.echo(f"merged into {folder}; logits moved by at most {change:.1e} of their size")


@main.command("cache", short_help="List or clear the prepared training rows")
@click.option("--clear", is_flag=True, help="Delete them; the next run prepares its rows again.")
def cache_command(clear: bool) -> None:
    """List the training rows that were prepared on this machine, or delete them.

    They are in the folder ALIGN_CACHE, or in align/rows in the user's cache folder. The least
    recently used are deleted if they exceed ALIGN_CACHE_GB (20).
    """
    from alignment.data import cache

    if clear:
        number, freed = cache.clear()
        click.echo(f"deleted {number} prepared data sets, {freed / 1e6:,.1f} MB")
        return
    for line in cache.describe_entries():
        click.echo(line)


def entry_point() -> None:
    """Run `align`; a user error exits with 2 and without a traceback."""
    guard_output()
    quiet_libraries()
    try:
        with user_errors():
            main(prog_name="align")
    except AlignError as error:
        click.echo(redact_text(f"error: {error}"), err=True)
        sys.exit(2)
