"""`align plan`: the words of the command line; what it needs is imported when it runs."""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from alignment.errors import ConfigError
from alignment.registry import STAGES

if TYPE_CHECKING:
    from alignment.plan.devices import Machine
    from alignment.plan.recipe import StagePlan

_OWN = ("stage", "gpus", "memory", "device", "tflops", "json", "set", "nproc", "accelerate")


class _Command(click.Command):
    """Wrong options are told as all mistakes are: in two lines."""

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
@click.option("--stage", help="The stage; by default told from the name of the recipe.")
@click.option("--gpus", metavar="1,2,4", help="Numbers of GPUs; by default 1, and those here.")
@click.option("--memory", metavar="24GB", help="Of each; by default that of the GPUs here.")
@click.option("--device", type=click.Choice(["cpu", "gpu"]), help="By default a GPU where one is.")
@click.option("--tflops", type=click.FloatRange(0, min_open=True), help="What a device reaches.")
@click.option("--set", "overrides", multiple=True, metavar="STAGE.KEY=VALUE", help="In a pipeline.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, sizes in bytes.")
def plan(
    argv: tuple[str, ...],
    stage: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Estimate the memory and time of a recipe, or of each stage of a pipeline.

    Takes the recipes and flags of the stage: align plan sft.yaml --use_peft --memory 24GB,
    --nproc and --accelerate too. Of models only their configs are read, of data a sample of rows.
    """
    from alignment.settings.resolve import split_argv

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    machine = _machine(**given)
    files, flags = split_argv(list(argv))
    is_pipeline = stage is None and len(files) == 1 and _is_pipeline(Path(files[0]))
    if is_pipeline and len(argv) > 1:
        raise ConfigError(f"{argv[1]}: a pipeline takes no keys", "use --set sft.KEY=VALUE")
    if overrides and not is_pipeline:
        raise ConfigError("--set: is for pipelines", "give --KEY VALUE itself")
    if not is_pipeline:
        stage = stage or _stage_of(files)
        _check(stage, flags)
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # of libraries, about keys that a run will tell of itself
        plans = _pipeline(files[0], overrides) if is_pipeline else [_one(str(stage), argv)]
        if given["device"] is None and any(found.launch.gpus > 1 for found in plans):
            machine = _machine(**{**given, "device": "gpu"})
        text = _report(plans, machine, as_json=as_json)
    click.echo(text)


def _machine(
    gpus: str | None,
    memory: str | None,
    device: Literal["cpu", "gpu"] | None,
    tflops: float | None,
) -> "Machine":
    """What is planned for: a GPU where one is, or where anything was said that needs one."""
    from alignment.plan.devices import Machine, find_gpus, host_memory, parse_counts, parse_memory

    limit, counts = parse_memory(memory) if memory else None, parse_counts(gpus) if gpus else []
    found = [] if device == "cpu" else find_gpus()
    if device is None:
        device = "gpu" if found or memory or gpus else "cpu"
    if device == "cpu" and counts not in ([], [1]):
        raise ConfigError(f"--gpus: {gpus} on a CPU", "leave --device cpu out")
    if limit is None and device == "cpu":
        limit = host_memory()
    if limit is None:
        limit = min((gpu.memory for gpu in found), default=None)
    return Machine(device, found, counts, limit, tflops)


def _report(plans: "list[StagePlan]", machine: "Machine", *, as_json: bool) -> str:
    from alignment.plan import table
    from alignment.plan.report import report_stage

    reports = [report_stage(found, machine) for found in plans]
    return json.dumps(table.as_json(reports)) if as_json else table.render(reports)


def _is_pipeline(path: Path) -> bool:
    from alignment.settings.yaml_file import read_yaml

    return any(entry.key == "stages" for entry in read_yaml(path))


def _stage_of(files: Sequence[str]) -> str:
    """The stage that a recipe is named after: sft.yaml, sft-lora.yaml."""
    for file in files:
        words = Path(file).stem.replace("_", "-").replace(".", "-").split("-")
        for word in words:
            if word in STAGES:
                return word
    named = files[0] if files else "no recipe"
    raise ConfigError(f"{named}: which stage is it?", f"give --stage, one of {', '.join(STAGES)}")


def _check(stage: str, flags: Sequence[str]) -> None:
    """An unknown stage or flag, with the nearest that is known, ours among them."""
    from alignment.settings.resolve import did_you_mean
    from alignment.settings.schema import schema_of

    if stage not in STAGES:
        hint = did_you_mean(stage, STAGES) or f"stages are {', '.join(STAGES)}"
        raise ConfigError(f"--stage: no stage '{stage}'", hint)
    known = [*schema_of(stage), "nproc", "accelerate"]
    for word in flags:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if not word.startswith("--") or {name, name.removeprefix("no_")} & set(known):
            continue
        hint = did_you_mean(name, [*_OWN, *known]) or f"`align {stage} --help-all` lists every key"
        raise ConfigError(f"{word}: unknown key '{name}'", hint)


def _one(stage: str, argv: Sequence[str]) -> "StagePlan":
    from alignment.plan.launched import read_launch
    from alignment.plan.recipe import read_stage
    from alignment.settings.resolve import resolve

    launch, words = read_launch(argv)
    return read_stage(stage, stage, resolve(stage, words, elsewhere=True).values, launch=launch)


def _pipeline(path: str, overrides: tuple[str, ...]) -> "list[StagePlan]":
    """Each stage of a pipeline, from what the earlier ones will leave."""
    from alignment.pipeline.file import read_pipeline
    from alignment.plan.launched import read_launch
    from alignment.plan.recipe import read_stage
    from alignment.registry import ROLES
    from alignment.settings.resolve import resolve

    plans: dict[str, StagePlan] = {}
    pipeline = read_pipeline(Path(path), overrides)
    for step in pipeline.steps:
        needs = [(ROLES[role], str(pipeline.folder / name)) for role, name in step.needs.items()]
        flags = [*step.flags, *(w for key, at in needs for w in (f"--{key}", at))]
        launch, words = read_launch([*step.recipes, *flags])
        values = resolve(step.stage, words, elsewhere=True).values
        given = {role: plans[name].result() for role, name in step.needs.items()}
        plans[step.name] = read_stage(step.name, step.stage, values, given, launch=launch)
    return list(plans.values())
