"""Files and flags go through one parser with the same checks."""

import dataclasses
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import ConfigError
from alignment.registry import STAGES
from alignment.settings.resolve import build, convert, resolve
from alignment.settings.schema import Key, dataclasses_of, schema_of
from alignment.settings.yaml_file import read_yaml


def recipe(folder: Path, text: str, name: str = "recipe.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_later_files_override_earlier_ones_and_flags_override_files(tmp_path: Path) -> None:
    first = recipe(tmp_path, "beta: 0.1\nseed: 1\nmax_length: 64\n", "a.yaml")
    second = recipe(tmp_path, "beta: 0.2\nseed: 2\n", "b.yaml")
    settings = resolve("dpo", [first, second, "--beta", "0.3"])
    assert settings.values["beta"] == 0.3
    assert settings.values["seed"] == 2
    assert settings.sources == {
        "output_dir": "default",
        "beta": "--beta",
        "seed": f"{second}:2",
        "max_length": f"{first}:3",
    }


def test_changed_leaves_out_what_equals_the_default(tmp_path: Path) -> None:
    settings = resolve("dpo", [recipe(tmp_path, "beta: 0.1\nmax_length: 200\n")])
    assert set(settings.changed()) == {"max_length"}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("learning_rate: 1e-5", "learning_rate", 1e-5),  # PyYAML would make it a string
        ("max_steps: 010", "max_steps", 10),  # and this 8
        ("run_name: 12:30", "run_name", "12:30"),  # and this 750
        ("run_name: yes", "run_name", "yes"),  # and this True
        ("use_cpu: yes", "use_cpu", True),
        ("max_length: null", "max_length", None),
        ("max_length: ~", "max_length", None),
        ("include_for_metrics: []", "include_for_metrics", []),
        ("train_data: a.jsonl", "train_data", ["a.jsonl"]),
        ("train_data: [a.jsonl, b.jsonl]", "train_data", ["a.jsonl", "b.jsonl"]),
        ("report_to: [wandb]", "report_to", "wandb"),
        ("loss_type: sigmoid", "loss_type", ["sigmoid"]),
        ("pad_to_multiple_of: 8", "pad_to_multiple_of", 8),
        ("pad_to_multiple_of: auto", "pad_to_multiple_of", "auto"),
        (
            "model_init_kwargs: {a: 1e-3, b: true, c: x, d: null}",
            "model_init_kwargs",
            {"a": 1e-3, "b": True, "c": "x", "d": None},
        ),
    ],
)
def test_a_file_means_what_the_key_says(tmp_path: Path, text: str, key: str, value: object) -> None:
    assert resolve("dpo", [recipe(tmp_path, text)]).values[key] == value


WRONG = [
    ("learning_rat", "1", "unknown key 'learning_rat'", "did you mean 'learning_rate'?"),
    ("per_device_train_batch_size", "2.5", "expected an integer, got '2.5'", "the default is 8"),
    ("max_steps", "true", "expected an integer, got 'true'", "the default is -1"),
    ("learning_rate", "fast", "expected a number, got 'fast'", "the default is 1e-06"),
    ("learning_rate", "nan", "expected a number, got 'nan'", "the default is 1e-06"),
    ("use_cpu", "maybe", "expected true or false, got 'maybe'", "the default is false"),
    ("lr_scheduler_type", "cosin", "'cosin' is none of linear, cosine", "did you mean 'cosine'?"),
    ("on_bad_row", "skip", "'skip' is none of raise, drop", "choose one of these"),
]


@pytest.mark.parametrize(("key", "value", "message", "remedy"), WRONG)
def test_a_file_and_a_flag_are_refused_in_the_same_words(
    tmp_path: Path, key: str, value: str, message: str, remedy: str
) -> None:
    path = recipe(tmp_path, f"seed: 1\n{key}: {value}\n")
    with pytest.raises(ConfigError) as in_file:
        resolve("dpo", [path])
    with pytest.raises(ConfigError) as on_line:
        resolve("dpo", [f"--{key}", value])
    assert str(in_file.value).startswith(f"{path}:2: ")
    assert str(on_line.value).startswith(f"--{key}: ")
    for error in (in_file.value, on_line.value):
        assert message in error.message
        assert error.remedy.startswith(remedy)


def test_a_prefix_of_a_key_is_no_key() -> None:
    with pytest.raises(ConfigError, match="unknown key 'learning_rat'"):
        resolve("dpo", ["--learning_rat", "1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta: 0.1\nbeta: 0.2\n", ":2: 'beta' is given twice"),
        ("- beta\n", ":1: not a mapping"),
        ("", "empty"),
        ("beta: [0.1\n", "not YAML"),
        ("a: &a [1]\nb: [*a, *a]\n", "2 unknown keys: 'a'"),
        ("learning_rate: [1, 2]\n", "expected a number"),
        ("[1]: 2\n", "a key must be a word"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("dpo", [recipe(tmp_path, text)])
    assert message in str(caught.value)


def test_an_alias_bomb_ends_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="too many values"):
        read_yaml(Path(recipe(tmp_path, "\n".join(lines))))


def test_deep_nesting_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too many values or levels|nested too deeply"):
        read_yaml(Path(recipe(tmp_path, f"a: {'[' * 5000}{']' * 5000}")))


def test_flags_in_all_their_spellings() -> None:
    argv = ["--beta=0.2", "--learning-rate", "1e-5", "--use_cpu", "--no_disable_dropout"]
    values = resolve("dpo", [*argv, "--loss_type", "sigmoid", "ipo", "--max_steps", "-1"]).values
    assert values["beta"] == 0.2
    assert values["learning_rate"] == 1e-5
    assert values["use_cpu"] is True
    assert values["disable_dropout"] is False
    assert values["loss_type"] == ["sigmoid", "ipo"]
    assert values["max_steps"] == -1


def test_a_list_given_twice_is_reported_and_a_scalar_overridden() -> None:
    with pytest.raises(ConfigError, match="--loss_type: given twice"):
        resolve("dpo", ["--loss_type", "sigmoid", "--loss_type", "ipo"])
    assert resolve("dpo", ["--beta", "0.2", "--beta", "0.3"]).values["beta"] == 0.3


def test_a_flag_without_its_value_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"--beta: a value is missing"):
        resolve("dpo", ["--beta"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_default_survives_the_schema(stage: str) -> None:
    """What is written out as its default and read back is still the default."""
    for key in schema_of(stage).values():
        if key.default is None or isinstance(key.default, list | dict) or key.default == "":
            continue
        assert convert(key, str(key.default), "here") == key.default, key.name


@pytest.mark.parametrize("stage", STAGES)
def test_no_key_is_declared_twice(stage: str) -> None:
    names = [f.name for owner in dataclasses_of(stage) for f in dataclasses.fields(owner) if f.init]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("stage", STAGES)
def test_the_keys_of_the_short_help_exist(stage: str) -> None:
    from alignment.settings.help import ESSENTIALS

    assert set(STAGES[stage].keys) <= set(schema_of(stage))
    assert set(STAGES[stage].keys) <= {*ESSENTIALS, *STAGES[stage].help}
    assert not set(STAGES[stage].help) & set(ESSENTIALS), "one text in one place"
    assert set(STAGES[stage].help) <= set(STAGES[stage].keys)


def test_shared_help_is_of_keys_that_stages_share() -> None:
    from alignment.settings.help import ESSENTIALS

    for key in ESSENTIALS:
        assert sum(key in stage.keys for stage in STAGES.values()) > 1, key


def test_what_trl_refuses_is_a_user_error(tmp_path: Path) -> None:
    settings = resolve("dpo", ["--output_dir", str(tmp_path), "--tf32"])
    with pytest.raises(ConfigError, match="tf32: --tf32 requires Ampere"):
        build(settings)
    settings = resolve("dpo", ["--output_dir", str(tmp_path), "--accelerator_config", '{"foo": 1}'])
    with pytest.raises(ConfigError, match=r"accelerator_config: .*unexpected keyword"):
        build(settings)


def test_built_dataclasses_hold_the_settings(tmp_path: Path) -> None:
    argv = ["--output_dir", str(tmp_path), "--beta", "0.7", "--use_peft", "--lora_r", "4"]
    argv += ["--max_rows", "3"]
    data, _, model, args = build(resolve("dpo", argv))
    assert (data.max_rows, model.lora_r, args.beta) == (3, 4, 0.7)


NUMBER = Key("x", ("float",), False, False, None, 0.0, "", "")


@given(st.floats(allow_nan=False))
def test_every_float_that_python_writes_is_read_back(number: float) -> None:
    assert convert(NUMBER, repr(number), "here") == number


@given(st.text(max_size=20))
def test_no_text_breaks_the_number_check(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(convert(NUMBER, text, "here"), float)
