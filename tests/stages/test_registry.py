"""What a stage is: every module of the folder defines one, and no word in it is unknown."""

import dataclasses
import importlib
import inspect
from typing import Any

import pytest
from support import REPOSITORY

from alignment.registry import STAGES


def test_every_module_of_the_folder_is_a_stage_that_runs() -> None:
    modules = {path.stem for path in (REPOSITORY / "alignment" / "stages").glob("[!_]*.py")}
    assert set(STAGES) == modules
    for name in modules:
        run = importlib.import_module(f"alignment.stages.{name}").run
        assert list(inspect.signature(run).parameters) == ["job"]


@pytest.mark.parametrize("stage", STAGES)
def test_its_keys_are_those_of_its_config(stage: str) -> None:
    from alignment.settings.schema import schema_of

    keys = schema_of(stage)
    assert STAGES[stage].length_key in keys
    assert {rule.key for rule in STAGES[stage].rules} <= set(keys)
    assert ("beta" in keys) or STAGES[stage].reference == "never"
    assert set(STAGES[stage].answer_losses) <= set(STAGES[stage].losses)
    declared = keys["loss_type"].choices if "loss_type" in keys else None
    assert not STAGES[stage].losses or declared in (None, STAGES[stage].losses)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "image"},
        {"long_rows": "wrap"},
        {"reference": "sometimes"},
        {"length_key": "max_prompt_length"},
        {"roles": ("model", "teacher")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_word_that_nobody_has_defined_raises(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"dpo: {next(iter(changes))}"):
        dataclasses.replace(STAGES["dpo"], **changes)


def test_no_answer_is_given_by_default() -> None:
    fields = dataclasses.fields(STAGES["dpo"])
    assert all(field.default is dataclasses.MISSING for field in fields)
    assert all(field.default_factory is dataclasses.MISSING for field in fields)


def test_a_reference_is_held_as_the_stage_says() -> None:
    held = {name: [s.has_reference({"beta": b}) for b in (0.0, 0.1)] for name, s in STAGES.items()}
    assert held == {
        "pt": [False, False],
        "sft": [False, False],
        "rm": [False, False],
        "dpo": [True, True],
        "kto": [True, True],
        "ppo": [False, True],
    }
