"""Names of other tools, short flags, and a file of the wrong kind."""

from pathlib import Path

import pytest

from alignment.errors import ConfigError
from alignment.pipeline.file import read_pipeline
from alignment.registry import STAGES
from alignment.settings.other_names import NO_KEY, OTHER_NAMES
from alignment.settings.resolve import resolve, unknown_key
from alignment.settings.schema import schema_of


@pytest.mark.parametrize(
    ("stage", "name", "hint"),
    [
        ("sft", "lora_rank", "lora_rank -> lora_r"),
        ("sft", "cutoff-len", "cutoff-len -> max_length"),
        ("sft", "val_size", "val_size -> eval_fraction"),
        ("sft", "template", "template -> chat_template"),
        ("sft", "dataset", "dataset -> train_data"),
        ("sft", "finetuning_type", "finetuning_type -> use_peft: true"),
        ("sft", "lr", "lr -> learning_rate"),
        ("sft", "epochs", "epochs -> num_train_epochs"),
        ("sft", "model", "model -> model_name_or_path"),
        ("sft", "torch_dtype", "torch_dtype -> dtype"),
        (
            "sft",
            "warmup_ratio",
            "warmup_ratio -> warmup_steps: 0.1 (under 1, a share of the steps)",
        ),
        (
            "dpo",
            "max_prompt_length",
            "max_prompt_length: no key: max_length cuts rows, and ppo never cuts a prompt",
        ),
        ("ppo", "max_length", "max_length -> max_completion_length"),
        (
            "sft",
            "max_new_tokens",
            "max_new_tokens -> max_completion_length, which this stage does not have",
        ),
        ("sft", "learnin_rate", "did you mean 'learning_rate'?"),
        ("sft", "qqqq", "`align sft --help-all` lists every key"),
    ],
)
def test_the_right_key_is_named(stage: str, name: str, hint: str) -> None:
    error = unknown_key(name, schema_of(stage), where="a:1", owner=f"align {stage}")
    assert str(error) == f"a:1: unknown key '{name}'\n  {hint}"


def test_the_table_names_keys_that_stages_have() -> None:
    schemas = [set(schema_of(stage)) for stage in STAGES]
    for name, ours in OTHER_NAMES.items():
        key = ours.partition(":")[0]
        assert any(key in schema for schema in schemas), name
    everywhere = set.intersection(*schemas)
    assert not (set(OTHER_NAMES) | set(NO_KEY)) & everywhere


def test_all_unknown_keys_of_a_file_come_with_their_hints(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("lora_rank: 8\nlearnin_rate: 1\nqqqq: 1\n")
    with pytest.raises(ConfigError) as caught:
        resolve("sft", [str(file)])
    assert caught.value.message == (
        f"3 unknown keys: 'lora_rank' ({file}:1), 'learnin_rate' ({file}:2), 'qqqq' ({file}:3)"
    )
    assert caught.value.remedy == (
        "lora_rank -> lora_r; learnin_rate: did you mean 'learning_rate'?"
    )


@pytest.mark.parametrize("words", [["-o", "here"], ["-o=here"], ["--output_dir", "here"]])
def test_o_is_the_output_folder(words: list[str]) -> None:
    settings = resolve("sft", [*words, "--eval_fraction", "0.5"])
    assert settings.values["output_dir"] == "here"
    assert settings.source("output_dir") == "--output_dir"


def test_a_negative_number_is_no_short_flag() -> None:
    with pytest.raises(ConfigError, match=r"learning_rate: -1e-05 must be 0 or more"):
        resolve("sft", ["--learning_rate", "-1e-5"])


def test_other_short_flags_are_named_with_their_long_form() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("sft", ["-lr", "1"])
    assert str(caught.value) == (
        "-lr: no such short flag\n  there is -o for --output_dir; write --learning_rate"
    )


def test_the_old_name_of_checkpointing_is_the_new_one() -> None:
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        settings = resolve("sft", [f"--{name}", "false"])
        assert settings.values["activation_checkpointing"] is False
        assert settings.source("activation_checkpointing") == f"--{name}"


@pytest.mark.parametrize(("name", "stage"), [("dpo.yaml", "dpo"), ("mine.yaml", "STAGE")])
def test_a_recipe_given_to_run_is_named(name: str, stage: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text("output_dir: o\nbeta: 0.1\n")
    with pytest.raises(ConfigError) as caught:
        read_pipeline(file)
    assert str(caught.value) == f"{file}: is a recipe, not a pipeline\n  align {stage} {file}"
