"""The house: imports point down, no cycles, a light command line, no file without a home."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from support import REPOSITORY

from alignment.registry import STAGES

#: The first pattern that a module's name begins with gives its layer.
LAYERS = {
    "alignment": 0,
    "alignment.errors": 0,
    "alignment.secrets": 0,
    "alignment.processes": 0,
    "alignment.registry": 0,
    "alignment.disk": 0,
    "data_tools.secret_patterns": 0,  # imports nothing; checks and the redaction share it
    "data_tools": 1,
    "alignment.settings": 1,
    "alignment.demo": 1,
    "alignment.runs": 2,
    "alignment.models": 3,
    "alignment.ppo": 4,
    "alignment.data": 4,
    "alignment.trackers": 4,
    "alignment.memory": 5,
    "alignment.training": 6,
    "alignment.stages": 7,
    "alignment.evaluate": 7,
    "alignment.pipeline": 7,
    "alignment.reject": 8,
    "alignment.plan": 8,
    "alignment.report": 8,
    "alignment.cli": 9,
    "alignment.__main__": 10,
}
MODULES = sorted(
    path for name in ("alignment", "data_tools") for path in (REPOSITORY / name).rglob("*.py")
)


class Limits(NamedTuple):
    """How tangled a package may be.

    A room is a package or a module directly inside it (the landing's own `__init__` is none), an
    arrow a room that imports another one,
    and a floor a step of the longest chain of arrows. `imports` is the average number of our own
    modules that a module imports when it is imported itself; what only annotations name, it
    imports for type checkers alone (ruff's TC001).
    """

    rooms: int
    arrows: int
    floors: int
    imports: float


LIMITS = {
    "data_tools": Limits(rooms=15, arrows=50, floors=9, imports=2.5),
    "alignment": Limits(rooms=22, arrows=100, floors=10, imports=2.5),
}
LIMITED = list(LIMITS)
HEAVY = {
    "torch", "transformers", "trl", "peft", "datasets", "accelerate", "wandb", "numpy", "yaml",
    "rich", "matplotlib", "pyarrow",
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layer(name: str) -> int:
    matches = [key for key in LAYERS if name == key or name.startswith(f"{key}.")]
    return LAYERS[max(matches, key=len)]


KNOWN = {module_name(path) for path in MODULES}


def imported(nodes: Iterable[ast.AST]) -> list[str]:
    """Our own modules that import statements name."""
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if name in KNOWN else node.module for name in below]
    return [name for name in names if name.split(".")[0] in LIMITS]


def imports(path: Path) -> list[str]:
    """Our own modules that a module imports anywhere, in functions too."""
    return imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def modules_of(package: str) -> list[Path]:
    return [path for path in MODULES if module_name(path).split(".")[0] == package]


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def arrows(package: str) -> set[tuple[str, str]]:
    found = {
        (room(module_name(path)), room(target))
        for path in modules_of(package)
        for target in imports(path)
        if target.split(".")[0] == package
    }
    return {(one, other) for one, other in found if one != other and package not in (one, other)}


@pytest.mark.parametrize("package", LIMITED)
def test_a_package_has_few_rooms_and_few_arrows_between_them(package: str) -> None:
    rooms = {room(module_name(path)) for path in modules_of(package)} - {package}
    assert len(rooms) <= LIMITS[package].rooms, sorted(rooms)
    assert len(arrows(package)) <= LIMITS[package].arrows, sorted(arrows(package))


@pytest.mark.parametrize("package", LIMITED)
def test_rooms_stand_on_few_floors(package: str) -> None:
    drawn = arrows(package)

    def floors(name: str, trail: tuple[str, ...] = ()) -> int:
        assert name not in trail, f"circle of rooms: {' -> '.join((*trail, name))}"
        below = (floors(other, (*trail, name)) for one, other in drawn if one == name)
        return 1 + max(below, default=0)

    assert max(floors(one) for one, _ in drawn) <= LIMITS[package].floors


@pytest.mark.parametrize("package", LIMITED)
def test_a_module_imports_few_others(package: str) -> None:
    counts = {
        module_name(path): len(set(imported(ast.parse(path.read_text(encoding="utf-8")).body)))
        for path in modules_of(package)
    }
    most = sorted(counts.items(), key=lambda item: -item[1])[:10]
    assert sum(counts.values()) <= LIMITS[package].imports * len(counts), most


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    name = module_name(path)
    package = name.rsplit(".", 1)[0]
    for target in imports(path):
        inside = target.startswith(package) and "." in package
        same_package = target.split(".")[:2] == name.split(".")[:2]
        assert (
            layer(target) < layer(name) or inside or same_package or layer(target) == layer(name)
        ), f"{name} imports {target}, which lies above it"


def test_no_import_cycles() -> None:
    graph = {module_name(path): set(imports(path)) for path in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for target in graph.get(name, ()):
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_data_tools_needs_of_alignment_only_the_errors() -> None:
    for path in MODULES:
        if module_name(path).startswith("data_tools"):
            ours = {name for name in imports(path) if name.startswith("alignment")}
            assert ours <= {"alignment.errors"}, path


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["dpo", "--help"], ["ppo", "-h"], ["data", "--help"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['align', *{words!r}]\n"
        "from alignment.cli import entry_point\n"
        "try:\n    entry_point()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('HEAVY', sorted({name.split('.')[0] for name in sys.modules} & "
        f"{HEAVY!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout
    assert "align" in done.stdout


#: Literals that equal a stage's name and mean something else.
NOT_A_STAGE = {
    "alignment.data.columns": {"sft"},  # a kind of row
    "alignment.models.classifier": {"pt"},  # safetensors' word for PyTorch
    "alignment.ppo.critic": {"pt"},  # safetensors' word for PyTorch
    "alignment.ppo.reward_models": {"pt", "sft"},  # transformers' word for PyTorch; a kind of row
    "alignment.ppo.trainer": {"ppo"},  # a tag of the model card
    "alignment.registry": {"sft"},  # a kind of row
    "alignment.reject.plan": {"sft"},  # a kind of row
    "alignment.reject.rows": {"sft"},  # a kind of row
}


def named_stages(path: Path) -> set[str]:
    """Stages whose names the code holds: compared, matched, as keys, in tuples, as arguments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {name for name in STAGES if name in constants}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in MODULES
        if path.is_relative_to(REPOSITORY / "alignment") and path.parent.name != "stages"
    ],
    ids=module_name,
)
def test_no_stage_is_named_outside_its_module(path: Path) -> None:
    name = module_name(path)
    assert named_stages(path) == NOT_A_STAGE.get(name, set())


def test_a_stage_names_no_other() -> None:
    for path in (REPOSITORY / "alignment" / "stages").glob("[!_]*.py"):
        stage = STAGES[path.stem]
        assert named_stages(path) <= {stage.name, stage.kind, *stage.losses}, path


def function_lengths(path: Path) -> dict[str, int]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        f"{module_name(path)}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_functions_and_files_stay_short() -> None:
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
        for name, length in function_lengths(path).items():
            assert length <= 80, f"{name} has {length} lines"


def test_doors_are_thin() -> None:
    doors = sorted((REPOSITORY / "recipes").glob("*.py"))
    assert [door.stem for door in doors] == sorted(STAGES)
    for door in doors:
        assert len(door.read_text(encoding="utf-8").splitlines()) <= 25


def test_no_drawers_for_odds_and_ends() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "common", "helpers", "misc"}
