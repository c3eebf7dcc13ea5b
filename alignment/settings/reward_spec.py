"""What the name of a reward stands for: a folder, a function, a URL or a hub name."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path


def is_function_or_url(spec: str) -> bool:
    """Whether a reward is no model: a URL or `module:function`."""
    return spec.startswith(("http://", "https://")) or bool(re.fullmatch(r"[\w.]+:\w+", spec))


def missing_function(spec: str) -> Iterator[tuple[str, str, str]]:
    """`module:function` whose file is not there, or does not define it; nothing is imported."""
    name, colon, function = spec.partition(":")
    if not colon or "/" in spec or not name.replace(".", "_").isidentifier():
        return
    file = _source_of(name)
    if file is None:
        yield "reward_model", f"{spec}: no module '{name}'", f"looked from {Path.cwd()}"
    if file is None or file.suffix != ".py":
        return
    text = file.read_text(encoding="utf-8")
    try:
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        names |= {word for node in ast.walk(ast.parse(text)) for word in _defined(node)}
    except SyntaxError as error:
        yield "reward_model", f"{file}:{error.lineno}: {error.msg}", "mend that line"
        return
    if function not in names and "*" not in names:
        yield "reward_model", f"{spec}: {file} has no '{function}'", "define it there"


def _source_of(name: str) -> Path | None:
    """The file of a module, found from the working directory too, as the run will find it."""
    places: list[str] = [str(Path.cwd()), *sys.path]
    file = None
    for part in name.split("."):
        found = PathFinder.find_spec(part, places)
        if found is None:
            return None
        file, places = found.origin, list(found.submodule_search_locations or [])
    return Path(file or "")


def _defined(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)
