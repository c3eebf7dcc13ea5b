"""Where our code uses a private name of somebody else, found in its syntax tree.

A name is private if it begins with one underscore. Of ``self`` and ``cls`` it is somebody else's if
a base class from a library has it, of any other object always: a module of ours has no business
with what another keeps to itself.
"""

import ast
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from support import REPOSITORY

OURS = ("alignment", "recipes", "data_tools")
MODULES = sorted(
    path for folder in ("alignment", "recipes") for path in (REPOSITORY / folder).rglob("*.py")
)
#: Packages of extras that need not be installed. A module of ours that imports one defines no class
#: with a base from TRL or transformers.
_OPTIONAL = {"tensorboard", "vllm"}
#: Functions that take an attribute's name as text.
_BY_TEXT = ("vars", "getattr", "hasattr", "setattr", "delattr")
#: Documented, in spite of the underscore.
_DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}


def is_private(name: str) -> bool:
    return bool(re.fullmatch(r"_[A-Za-z0-9]\w*", name)) and name not in _DOCUMENTED


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def private_uses(path: Path) -> set[str]:
    """The private names of others that a module imports, reads, sets, calls or overrides."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set(_uses(tree, module_name(path), owner=None))


def _uses(node: ast.AST, module: str, owner: type | None) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        owner = _class_of(node, module)
        yield from _overrides(node, owner)
    yield from _own_uses(node, owner)
    for child in ast.iter_child_nodes(node):
        yield from _uses(child, module, owner)


def _own_uses(node: ast.AST, owner: type | None) -> Iterator[str]:
    names: list[str] = []
    match node:
        case ast.Import():
            names = [part for alias in node.names for part in alias.name.split(".")]
        case ast.ImportFrom():
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        case ast.Attribute():
            names = [node.attr]
            if _is_self(node.value) and node.attr not in names_of_libraries(owner):
                names = []
        case ast.Call():
            names = [keyword.arg for keyword in node.keywords if keyword.arg]
            if _takes_text(node.func):
                names += _texts(node.args)
        case ast.Compare() if any(map(_is_dict_of_object, node.comparators)):
            names = _texts([node.left])
        case ast.Subscript() if _is_dict_of_object(node.value):
            names = _texts([node.slice])
    yield from filter(is_private, names)


def _overrides(node: ast.ClassDef, owner: type | None) -> Iterator[str]:
    theirs = names_of_libraries(owner)
    yield from (name for name in _defined(node) if is_private(name) and name in theirs)


def _defined(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield statement.name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign():
                yield from (t.id for t in statement.targets if isinstance(t, ast.Name))


def _class_of(node: ast.ClassDef, module: str) -> type | None:
    """The class itself, imported; None for one within a function."""
    try:
        found = vars(importlib.import_module(module)).get(node.name)
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL:
            raise
        return None
    return found if isinstance(found, type) else None


@functools.cache
def names_of_libraries(owner: type | None) -> set[str]:
    """The private names that base classes from libraries define or set on ``self``."""
    bases = owner.__mro__[1:] if owner else ()
    theirs = [base for base in bases if base.__module__.split(".")[0] not in (*OURS, "builtins")]
    return {name for base in theirs for name in _names_of(base)}


def _names_of(base: type) -> set[str]:
    names = set(filter(is_private, vars(base)))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
    except (OSError, TypeError):  # written in C
        return names
    stores = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _is_self(n.value)]
    return names | {n.attr for n in stores if isinstance(n.ctx, ast.Store) and is_private(n.attr)}


def replaces_attributes(path: Path) -> bool:
    """Whether a module sets attributes by computed names, or binds a function to an object."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(map(_replaces, ast.walk(tree)))


def _replaces(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="setattr" | "delattr")):
            return True
        case ast.Call(func=ast.Attribute(attr="__setattr__" | "MethodType")):
            return True
        case ast.Call(func=ast.Attribute(attr="update" | "pop" | "setdefault", value=owner)):
            return _is_dict_of_object(owner)
        case ast.Subscript(ctx=ast.Store() | ast.Del()):
            return _is_dict_of_object(node.value)
    return False


def _is_self(node: ast.AST) -> bool:
    """``self``, ``cls`` or ``super()``."""
    if isinstance(node, ast.Call):
        node = node.func
        return isinstance(node, ast.Name) and node.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _takes_text(function: ast.AST) -> bool:
    """``getattr`` and the like, or a method of ``vars(x)``."""
    if isinstance(function, ast.Attribute):
        return _is_dict_of_object(function.value)
    return isinstance(function, ast.Name) and function.id in _BY_TEXT


def _is_dict_of_object(node: ast.AST) -> bool:
    """``vars(x)`` or ``x.__dict__``."""
    if isinstance(node, ast.Attribute):
        return node.attr == "__dict__"
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars"


def _texts(nodes: list[ast.expr]) -> list[str]:
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
