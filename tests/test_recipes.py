"""Every shipped YAML is read by the parser that will read it for a user."""

from pathlib import Path

import pytest
from support import REPOSITORY

from alignment.pipeline.file import read_pipeline
from alignment.registry import STAGES
from alignment.settings.resolve import build, resolve
from alignment.settings.yaml_file import read_yaml

RECIPES = REPOSITORY / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))


def is_pipeline(path: Path) -> bool:
    return any(entry.key == "stages" for entry in read_yaml(path))


PIPELINES = [path for path in FILES if is_pipeline(path)]
STAGE_FILES = [path for path in FILES if path not in PIPELINES]


def name_of(path: Path) -> str:
    return path.relative_to(RECIPES).as_posix()


def test_nothing_is_left_out() -> None:
    assert len(FILES) == len(list(RECIPES.rglob("*.y*ml")))
    assert (len(PIPELINES), len(STAGE_FILES)) == (6, 20)


@pytest.mark.parametrize("path", STAGE_FILES, ids=name_of)
def test_a_recipe_is_a_page_of_keys_that_exist(path: Path, tmp_path: Path) -> None:
    stage = path.stem.split("-")[0]
    assert stage in STAGES, "a recipe is named for its stage"
    settings = resolve(stage, [str(path), "--output_dir", str(tmp_path), "--use_cpu"])
    assert len(settings.sources) <= 32
    assert settings.values["report_to"] == "wandb"
    off = ["--load_in_4bit", "false"]  # its package may be missing where the tests run
    build(resolve(stage, [str(path), "--output_dir", str(tmp_path), "--use_cpu", *off]))


@pytest.mark.parametrize("path", PIPELINES, ids=name_of)
def test_a_pipeline_names_recipes_that_exist(path: Path) -> None:
    pipeline = read_pipeline(path)
    assert pipeline.folder.parts[0] == "runs"
    for step in pipeline.steps:
        (recipe,) = step.recipes
        assert Path(recipe).stem.split("-")[0] == step.stage
        values = resolve(step.stage, [recipe]).values
        assert "model" in step.needs or values["model_name_or_path"]
