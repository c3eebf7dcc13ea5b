"""The commands start without anything heavy, and the package never needs torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import data_tools
from data_tools.cli import SHAPES, data
from data_tools.convert.export import EXPORTS
from data_tools.formats.pairing import POLICIES as POLICY_TABLE
from data_tools.options import POLICIES

HEAVY = ["torch", "transformers", "trl", "datasets", "numpy", "yaml", "rich", "pyarrow", "orjson"]
PACKAGE = Path(data_tools.__file__).parent


def loaded(code: str, names: list[str]) -> list[str]:
    check = f"{code}; import sys; print(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_commands_import_nothing_heavy() -> None:
    assert loaded("import data_tools.cli", HEAVY) == []


def test_every_module_works_without_torch() -> None:
    modules = [
        ".".join(("data_tools", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in PACKAGE.rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    assert (
        loaded(f"import {', '.join(modules)}", ["torch", "transformers", "datasets", "trl"]) == []
    )


def test_only_errors_are_taken_from_alignment() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alignment"):
                assert node.module == "alignment.errors", path


def test_choices_of_the_command_line_are_those_of_the_library() -> None:
    assert set(POLICIES) == set(POLICY_TABLE)
    assert set(SHAPES) == {"auto", *EXPORTS}


@pytest.mark.parametrize("command", sorted(data.commands))
def test_every_command_has_help(command: str) -> None:
    done = CliRunner().invoke(data, [command, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("convert a.json -o b.jsonl --defect all", "--defect has no effect without --preset"),
        ("convert a.json -o b.jsonl --preset chatlm --to sft", "--to has no effect with --preset"),
        ("convert a.json -o b.jsonl --preset chatlm --num-proc 2", "--num-proc has no effect with"),
        ("validate a.json --max-length 9", "--max-length has no effect without --tokenizer"),
        ("stats a.json --max-length 9", "--max-length has no effect without --tokenizer"),
        ("show a.json --max-length 9", "--max-length has no effect without --tokenizer"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(command: str, message: str) -> None:
    done = CliRunner().invoke(data, command.split())
    assert done.exit_code == 2
    assert message in done.output
