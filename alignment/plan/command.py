"""`align plan`: the words of the command line; what it needs is imported when it runs."""

import json
import os
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from alignment.errors import ConfigError
from alignment.registry import STAGES

if TYPE_CHECKING:
    from alignment.plan.recipe import StagePlan
    from alignment.plan.report import Machine

_OWN = ("stage", "gpus", "memory", "device", "tflops", "json", "set")


@click.command(
    short_help="Estimate memory and time before anything is loaded",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="FILE... [--KEY VALUE]...")
@click.option("--stage", help="The stage; by default told from the name of the recipe.")
@click.option("--gpus", default="1", show_default=True, metavar="1,2,4", help="Numbers of GPUs.")
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

    Takes the recipes and flags of the stage: align plan sft.yaml --use_peft --memory 24GB.
    Of models only their configs are read, of data a sample of rows.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    files = argv[: _first_flag(argv)]
    is_pipeline = stage is None and len(files) == 1 and _is_pipeline(Path(files[0]))
    if is_pipeline and len(argv) > 1:
        raise ConfigError(f"{argv[1]}: a pipeline takes no keys", "use --set sft.KEY=VALUE")
    if overrides and not is_pipeline:
        raise ConfigError("--set: is for pipelines", "give --KEY VALUE itself")
    if not is_pipeline:
        stage = stage or _stage_of(files)
        _check(stage, argv)
    machine = _machine(**given)
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # of libraries, about keys that a run will tell of itself
        plans = _pipeline(files[0], overrides) if is_pipeline else [_one(str(stage), list(argv))]
        text = _report(plans, machine, as_json=as_json)
    click.echo(text)


def _machine(
    gpus: str, memory: str | None, device: Literal["cpu", "gpu"] | None, tflops: float | None
) -> "Machine":
    """What is planned for: a GPU where one is, or where anything was said that needs one."""
    from alignment.plan.devices import find_gpus, parse_counts, parse_memory

    limit, counts = parse_memory(memory) if memory else None, parse_counts(gpus)
    found = [] if device == "cpu" else find_gpus()
    if device is None:
        device = "gpu" if found or memory or counts != [1] else "cpu"
    if device == "cpu" and counts != [1]:
        raise ConfigError(f"--gpus: {gpus} on a CPU", "leave --device cpu out")
    if limit is None:
        limit = min((gpu.memory for gpu in found), default=None)
    from alignment.plan.report import Machine

    return Machine(device, found, counts, limit, tflops)


def _report(plans: "list[StagePlan]", machine: "Machine", *, as_json: bool) -> str:
    from alignment.plan import table
    from alignment.plan.report import report_stage

    reports = [report_stage(found, machine) for found in plans]
    return json.dumps(table.as_json(reports)) if as_json else table.render(reports)


def _first_flag(argv: tuple[str, ...]) -> int:
    return next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))


def _is_pipeline(path: Path) -> bool:
    from alignment.yaml_file import read_yaml

    return any(entry.key == "stages" for entry in read_yaml(path))


def _stage_of(files: tuple[str, ...]) -> str:
    """The stage that a recipe is named after: sft.yaml, sft-lora.yaml."""
    for file in files:
        words = Path(file).stem.replace("_", "-").replace(".", "-").split("-")
        for word in words:
            if word in STAGES:
                return word
    named = files[0] if files else "no recipe"
    raise ConfigError(f"{named}: which stage is it?", f"give --stage, one of {', '.join(STAGES)}")


def _check(stage: str, argv: tuple[str, ...]) -> None:
    """An unknown stage or flag, with the nearest that is known, ours among them."""
    from alignment.config import did_you_mean
    from alignment.schema import schema_of

    if stage not in STAGES:
        hint = did_you_mean(stage, STAGES) or f"stages are {', '.join(STAGES)}"
        raise ConfigError(f"--stage: no stage '{stage}'", hint)
    known = schema_of(stage)
    for word in argv[_first_flag(argv) :]:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if not word.startswith("--") or name in known or name.removeprefix("no_") in known:
            continue
        hint = did_you_mean(name, [*_OWN, *known]) or f"`align {stage} --help-all` lists every key"
        raise ConfigError(f"{word}: unknown key '{name}'", hint)


def _one(stage: str, argv: list[str]) -> "StagePlan":
    from alignment.config import resolve
    from alignment.launch import take_launch_words
    from alignment.plan.recipe import read_stage

    return read_stage(stage, stage, resolve(stage, take_launch_words(argv)[1]).values)


def _pipeline(path: str, overrides: tuple[str, ...]) -> "list[StagePlan]":
    """Each stage of a pipeline, from what the earlier ones will leave."""
    from alignment.config import resolve
    from alignment.launch import take_launch_words
    from alignment.pipeline_file import read_pipeline
    from alignment.plan.recipe import read_stage
    from alignment.registry import ROLES

    plans: dict[str, StagePlan] = {}
    pipeline = read_pipeline(Path(path), overrides)
    for step in pipeline.steps:
        needs = [(ROLES[role], str(pipeline.folder / name)) for role, name in step.needs.items()]
        words = [*step.recipes, *step.flags, *(w for key, at in needs for w in (f"--{key}", at))]
        values = resolve(step.stage, take_launch_words(words)[1]).values
        given = {role: plans[name].result() for role, name in step.needs.items()}
        plans[step.name] = read_stage(step.name, step.stage, values, given)
    return list(plans.values())
