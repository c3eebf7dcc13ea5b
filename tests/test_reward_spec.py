"""What the name of a reward means: one answer for checks, plan, record and loading."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import ConfigError
from alignment.models.parents import identify_parents, identify_reward
from alignment.runs.record import fingerprint
from alignment.settings.resolve import resolve
from alignment.settings.reward_spec import RewardKind, find_source, load_function, parse_reward

CONSTANT = "def constant(completions, **columns):\n    return [{}] * len(completions)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, and modules and paths as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("rm", RewardKind.HUB),
        ("owner/name", RewardKind.HUB),
        ("owner/name-1.5_b", RewardKind.HUB),
        ("there", RewardKind.FOLDER),
        ("there/", RewardKind.FOLDER),
        ("owner/there", RewardKind.FOLDER),
        ("odd:name", RewardKind.FOLDER),
        ("runs/x/checkpoint-5", RewardKind.FOLDER),
        ("runs/x/", RewardKind.FOLDER),
        ("./rm", RewardKind.FOLDER),
        ("/data/rm", RewardKind.FOLDER),
        ("a:b/rm", RewardKind.FOLDER),
        ("http://host:8000/score", RewardKind.URL),
        ("https://host/score?key=1", RewardKind.URL),
        ("HTTP://HOST/score", RewardKind.URL),
        ("Https://[::1]:80/", RewardKind.URL),
        ("rules:polite", RewardKind.FUNCTION),
        ("package.rules:polite", RewardKind.FUNCTION),
        ("rules.py:polite", RewardKind.FUNCTION),
        ("../a folder/my-rules.py:polite", RewardKind.FUNCTION),
    ],
)
def test_what_a_name_means(here: Path, text: str, kind: RewardKind) -> None:
    for folder in ("there", "owner/there", "odd:name"):
        (here / folder).mkdir(parents=True)
    assert parse_reward(text).kind is kind
    assert parse_reward(text).is_model is (kind in (RewardKind.FOLDER, RewardKind.HUB))


def test_the_parts_of_a_function() -> None:
    found = parse_reward("a.b:c")
    assert (found.source, found.function, found.is_file) == ("a.b", "c", False)
    found = parse_reward("./a:b/c.py:d")
    assert (found.source, found.function, found.is_file) == ("./a:b/c.py", "d", True)


@pytest.mark.parametrize(
    "text",
    ["", " ", "owner/name:main", "rules:", ":polite", "rules:1", "a.1:b", "rules:a.b", "ftp://h/x",
     "file:///rm", "my-rules:polite", "a b:c"],
)  # fmt: skip
def test_what_is_no_reward(here: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not a reward"):
        parse_reward(text)


@pytest.mark.parametrize("text", ["http://", "http:///score", "https://:80/", "http://host:x/"])
def test_a_url_has_a_host(text: str) -> None:
    with pytest.raises(ConfigError, match="a URL without a host"):
        parse_reward(text)


def test_finding_a_function_imports_nothing(here: Path) -> None:
    package = here / "package" / "inner"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py", package / "rules.py"):
        file.write_text("raise SystemExit('imported')\n")
    (here / "spaced" / "deep").mkdir(parents=True)
    (here / "spaced" / "deep" / "rules.py").write_text(CONSTANT.format(1))
    assert find_source(parse_reward("package.inner.rules:f")) == package / "rules.py"
    assert find_source(parse_reward("package.inner:f")) == package / "__init__.py"
    assert find_source(parse_reward("spaced.deep.rules:f")) == here / "spaced/deep/rules.py"
    assert find_source(parse_reward("package/inner/rules.py:f")) == Path("package/inner/rules.py")
    assert find_source(parse_reward("sys:exit")) is None
    assert str(here) not in sys.path
    for text, why in {
        "package.other:f": "no module 'package.other'",
        "package.inner.rules.x:f": "no module 'package.inner.rules.x'",
        "absent.rules:f": "no module 'absent.rules'",
        "package/other.py:f": "no file package/other.py",
        "__main__x:f": "no module",
    }.items():
        with pytest.raises(ConfigError, match=why):
            find_source(parse_reward(text))


def test_functions_are_loaded_from_modules_and_files(here: Path) -> None:
    (here / "apart").mkdir()
    (here / "named_rules.py").write_text(CONSTANT.format(1))
    (here / "apart" / "json.py").write_text(
        "from dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Row:\n    value: 'float'\n\n\n"
        "calls = []\n" + CONSTANT.format("Row(2.0).value")
    )
    (here / "apart" / "named_rules.py").write_text(CONSTANT.format(3))

    def answer(text: str) -> Any:
        return load_function(parse_reward(text))(completions=["a"])

    assert answer("named_rules:constant") == [1]
    assert answer("apart/json.py:constant") == [2.0]
    assert answer("apart/named_rules.py:constant") == [3]
    assert json is sys.modules["json"], "a file does not replace the module of its name"
    first, again = (
        load_function(parse_reward(t)) for t in ("apart/json.py:Row", "./apart/json.py:Row")
    )
    assert first is again, "two functions of one file share its state"
    lazy = load_function(parse_reward("trl.rewards:think_format_reward"))
    assert lazy(completions=[[{"role": "assistant", "content": "4"}]]) == [0.0]


def test_a_function_that_cannot_be_loaded(here: Path) -> None:
    (here / "some_rules.py").write_text("number = 1\nimport not_there_at_all\n")
    (here / "torn_rules.py").write_text("def f(:\n")
    (here / "plain_rules.py").write_text("number = 1\n")
    with pytest.raises(ConfigError, match=r"plain_rules:f: no function 'f' in .*plain_rules\.py"):
        load_function(parse_reward("plain_rules:f"))
    with pytest.raises(ConfigError, match="no function 'number'"):
        load_function(parse_reward("plain_rules.py:number"))
    for text in ("torn_rules:f", "torn_rules.py:f"):
        with pytest.raises(ConfigError, match=r"torn_rules\.py:1: invalid syntax"):
            load_function(parse_reward(text))
    for text in ("some_rules:f", "some_rules.py:f"):
        with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):  # a bug of that code
            load_function(parse_reward(text))


def mark(here: Path, *rewards: str) -> str:
    """The fingerprint of a ppo run on these rewards."""
    settings = resolve("ppo", ["--model_name_or_path", "model", "--reward_model", *rewards])
    parents = identify_parents("ppo", settings.values)
    return fingerprint("ppo", settings=settings.values, inputs={}, parents=parents)


def test_the_fingerprint_of_a_run_names_its_rewards(here: Path) -> None:
    for name in ("model", "rm"):
        (here / name).mkdir()
        (here / name / "config.json").write_text("{}")
        (here / name / "model.safetensors").write_bytes(b"0")
    both = CONSTANT.format(1) + CONSTANT.format(2).replace("constant", "other")
    (here / "rules.py").write_text(both)
    (here / "copy.py").write_text(both)
    names = ["rm", "rules:constant", "rules:other", "http://host/a", "http://host/b"]
    marks = {name: mark(here, name) for name in names}
    assert len(set(marks.values())) == len(names)
    assert mark(here, "rm/") == mark(here, "./rm") == marks["rm"]
    assert mark(here, "copy.py:constant") == mark(here, "rules.py:constant") == marks[names[1]]
    assert mark(here, "rm", "rules:constant") != mark(here, "rules:constant", "rm") != marks["rm"]
    (here / "rules.py").write_text(both.replace("[1]", "[5]"))
    assert mark(here, "rules:constant") != marks["rules:constant"]
    (here / "rm" / "model.safetensors").write_bytes(b"1")
    assert mark(here, "rm") != marks["rm"]


def test_a_reward_on_the_hub_is_not_looked_up_at_the_policys_revision(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignment.models.folders._is_on_hub", lambda name: True)
    words = ["--model_name_or_path", "owner/model", "--model_revision", "v1"]
    settings = resolve("ppo", [*words, "--reward_model", "owner/rm"])
    parents = identify_parents("ppo", settings.values)
    assert parents["model"].fingerprint == "owner/model@v1"
    assert parents["reward_model"].fingerprint == "owner/rm@main"


def test_a_key_in_a_url_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORER_API_KEY", "planted-in-the-address")
    parent = identify_reward(parse_reward("https://host/?key=planted-in-the-address"))
    assert "planted" not in parent.path + parent.fingerprint
