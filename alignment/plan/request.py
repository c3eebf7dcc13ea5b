"""The stages that a command line asks about: of one recipe, or of a pipeline."""

from collections.abc import Sequence
from pathlib import Path

from alignment.errors import ConfigError
from alignment.pipeline.file import is_pipeline, read_pipeline
from alignment.plan.launch import read_launch
from alignment.plan.recipe import StagePlan, read_stage
from alignment.registry import ROLES, STAGES
from alignment.settings.resolve import did_you_mean, resolve, split_argv
from alignment.settings.strategies import refuse_strategy


def read_request(
    argv: Sequence[str], *, stage: str | None, overrides: Sequence[str], options: Sequence[str]
) -> list[StagePlan]:
    """Read the stages to plan.

    Args:
        argv: Recipes and flags of a stage, or one pipeline file.
        stage: The stage; None: from the name of the recipe.
        overrides: Keys of a pipeline's stages, as in ``sft.max_length=512``.
        options: Names of the command's own options, for the hint at a flag that nobody knows.

    Raises:
        ConfigError: Something of it is unknown or does not fit together.
        DataError: A row of the sample cannot be used.
    """
    files, _ = split_argv(list(argv))
    if stage is None and len(files) == 1 and is_pipeline(Path(files[0])):
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]}: a pipeline takes no keys", "use --set sft.KEY=VALUE")
        return _read_pipeline(files[0], overrides)
    if overrides:
        raise ConfigError("--set: only for pipelines", "give --KEY VALUE itself")
    stage = stage or _stage_of(files)
    if stage not in STAGES:
        hint = did_you_mean(stage, STAGES) or f"stages are {', '.join(STAGES)}"
        raise ConfigError(f"--stage: no stage '{stage}'", hint)
    launch, strategy, words = read_launch(argv)
    values = resolve(stage, words, elsewhere=True, options=options).values
    refuse_strategy(STAGES[stage], values, strategy)
    return [read_stage(stage, stage, values, launch=launch)]


def _stage_of(files: Sequence[str]) -> str:
    """The stage in the name of a recipe: sft.yaml, sft-lora.yaml."""
    for file in files:
        words = Path(file).stem.replace("_", "-").replace(".", "-").split("-")
        for word in words:
            if word in STAGES:
                return word
    named = files[0] if files else "no recipe"
    raise ConfigError(f"{named}: which stage is it?", f"give --stage, one of {', '.join(STAGES)}")


def _read_pipeline(path: str, overrides: Sequence[str]) -> list[StagePlan]:
    """Each stage of a pipeline, from what the earlier ones will leave."""
    plans: dict[str, StagePlan] = {}
    pipeline = read_pipeline(Path(path), overrides)
    for step in pipeline.steps:
        needs = [(ROLES[role], str(pipeline.folder / name)) for role, name in step.needs.items()]
        flags = [*step.flags, *(w for key, at in needs for w in (f"--{key}", at))]
        launch, strategy, words = read_launch([*step.recipes, *flags])
        values = resolve(step.stage, words, elsewhere=True).values
        refuse_strategy(STAGES[step.stage], values, strategy)
        given = {role: plans[name].result() for role, name in step.needs.items()}
        plans[step.name] = read_stage(step.name, step.stage, values, given, launch=launch)
    return list(plans.values())
