"""`align plan`: the options of its command line; what it needs is imported when it runs."""

import json
import os
import sys
import warnings
from contextlib import redirect_stdout
from typing import Any

import click

from alignment.errors import ConfigError


class _Command(click.Command):
    """A wrong option is an error of two lines, as all mistakes are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            message = error.format_message().replace("Invalid value for ", "").replace("'", "")
            raise ConfigError(message.rstrip("."), "see `align plan --help`") from error


@click.command(
    cls=_Command,
    short_help="Estimate memory and time before anything is loaded",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="FILE... [--KEY VALUE]...")
@click.option("--stage", help="The stage. Default: the one in the name of the recipe.")
@click.option("--gpus", metavar="1,2,4", help="Numbers of GPUs. Default: 1, those here, --nproc.")
@click.option("--memory", metavar="24GB", help="Of each device. Default: that of this machine.")
@click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), help="Default: the GPU if one is available."
)
@click.option("--tflops", type=click.FloatRange(0, min_open=True), help="Speed of one device.")
@click.option("--set", "overrides", multiple=True, metavar="STAGE.KEY=VALUE", help="In a pipeline.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, sizes in bytes.")
@click.pass_context
def plan(
    context: click.Context,
    /,
    argv: tuple[str, ...],
    stage: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Estimate the memory and time of a recipe, or of each stage of a pipeline.

    It takes the recipes and flags of the stage, also --nproc and --accelerate:
    align plan sft.yaml --use_peft --memory 24GB. It reads the configs of models and a sample of
    the rows, no weights.
    """
    from alignment.plan.devices import describe_machine
    from alignment.plan.request import read_request

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    machine = describe_machine(**given)
    names = [name.removeprefix("--") for option in context.command.params for name in option.opts]
    options = [*names, "nproc", "accelerate"]
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # of libraries, about keys; the run itself prints them
        plans = read_request(argv, stage=stage, overrides=overrides, options=options)
        if given["device"] is None and any(found.launch.gpus > 1 for found in plans):
            machine = describe_machine(**{**given, "device": "gpu"})
        from alignment.models.imports import import_heavy

        import_heavy("alignment.plan.report")
        from alignment.plan.report import report_stage  # loads torch, mistakes are found without
        from alignment.plan.table import as_text, as_values

        reports = [report_stage(found, machine) for found in plans]
    click.echo(json.dumps(as_values(reports)) if as_json else as_text(reports))
