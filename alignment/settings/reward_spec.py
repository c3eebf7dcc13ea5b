"""Parse the name of a reward: a model's folder or hub name, a Python function, or a URL.

Settings, `align plan`, run records and the loading of rewards all use `parse_reward`.
"""

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from alignment.errors import ConfigError
from alignment.secrets import redact_text
from alignment.settings.names import HUB_NAME

_URL = re.compile(r"https?://", re.IGNORECASE)
_EXAMPLES = "name a folder, a hub name, module:function, file.py:function or an http(s) URL"


class RewardKind(StrEnum):
    """The kinds of rewards, as messages name them."""

    FOLDER = "a model's folder"
    HUB = "a hub name"
    FUNCTION = "a function"
    URL = "a URL"


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """The parsed name of a reward.

    Attributes:
        kind: The kind of reward.
        text: The name as the user wrote it.
        source: For a function: the name of its module, or the path of its `.py` file.
        function: For a function: its name in that module or file.
    """

    kind: RewardKind
    text: str
    source: str = ""
    function: str = ""

    @property
    def is_model(self) -> bool:
        """Whether weights are loaded for it."""
        return self.kind in (RewardKind.FOLDER, RewardKind.HUB)

    @property
    def shown(self) -> str:
        """The name without the password or key of a URL."""
        return redact_text(self.text)

    @property
    def is_file(self) -> bool:
        """Whether it is a function that is named by the path of its file."""
        return self.source.endswith(".py")


def parse_reward(text: str, *, role: str = "reward_model") -> RewardSpec:
    """Parse the name of a reward; nothing is loaded or imported.

    The name of an existing folder is always a folder, whatever else it could mean.

    Args:
        text: The name.
        role: Starts the error message.

    Raises:
        ConfigError: The name is of none of these kinds.
    """
    if _URL.match(text):
        if not _has_host(text):
            raise ConfigError(f"{role}: {text}: a URL without a host", "as in http://host:8000/")
        return RewardSpec(RewardKind.URL, text)
    if text.strip() and Path(text).is_dir():
        return RewardSpec(RewardKind.FOLDER, text)
    source, colon, function = text.rpartition(":")
    if colon and "/" not in function:
        if not (function.isidentifier() and (source.endswith(".py") or _is_module_name(source))):
            raise ConfigError(f"{role}: {text!r} is not a reward", _EXAMPLES)
        return RewardSpec(RewardKind.FUNCTION, text, source, function)
    if "://" in text or not text.strip():
        raise ConfigError(f"{role}: {text!r} is not a reward", _EXAMPLES)
    return RewardSpec(RewardKind.HUB if HUB_NAME.fullmatch(text) else RewardKind.FOLDER, text)


def find_source(spec: RewardSpec, *, role: str = "reward_model") -> Path | None:
    """Find the file of a function as an import would, without importing it.

    Settings are also checked for dry runs, plans and pipelines. None of these may run a user's
    code, which can take long, claim a GPU or write files. `load_function` runs it, in the process
    of the stage that uses it.

    Returns:
        The file; None if Python knows the module without one.

    Raises:
        ConfigError: There is no such file or module.
    """
    if spec.is_file:
        if not Path(spec.source).is_file():
            raise ConfigError(
                f"{role}: {spec.text}: no file {spec.source}", f"looked from {Path.cwd()}"
            )
        return Path(spec.source)
    top, *below = spec.source.split(".")
    found = _find_top_level(top)
    for name in below:
        # importlib.util.find_spec would import the parent packages of the module
        places = found.submodule_search_locations if found is not None else None
        found = PathFinder.find_spec(name, places) if places is not None else None
    if found is None:
        raise ConfigError(
            f"{role}: {spec.text}: no module {spec.source!r}", f"looked from {Path.cwd()}"
        )
    return Path(found.origin) if found.has_location and found.origin else None


def load_function(spec: RewardSpec, *, role: str = "reward_model") -> Callable[..., Any]:
    """Import the module or file of a function, and return the function.

    Raises:
        ConfigError: There is no such module, file or function, or its file is not valid Python.
            Any other exception of the import is a bug in that code and keeps its traceback.
    """
    file = find_source(spec, role=role)
    try:
        module = _import_file(Path(spec.source)) if spec.is_file else _import_module(spec.source)
    except SyntaxError as error:
        raise ConfigError(
            f"{role}: {error.filename or file}:{error.lineno}: {error.msg}", "fix that line"
        ) from error
    try:
        function = getattr(module, spec.function)  # TRL's modules load lazily
    except AttributeError:
        function = None
    if not callable(function):
        raise ConfigError(
            f"{role}: {spec.text}: no function {spec.function!r} in {file or spec.source}",
            "define it there",
        )
    return function  # type: ignore[no-any-return]


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # an invalid port or address
        return False


def _is_module_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _find_top_level(name: str) -> ModuleSpec | None:
    before = sys.path.copy()
    _add_working_folder()
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module without a spec, such as `__main__`
        return None
    finally:
        sys.path[:] = before


def _import_module(name: str) -> ModuleType:
    _add_working_folder()  # not undone: the function may import more when it is called
    return importlib.import_module(name)


def _add_working_folder() -> None:
    """Let Python find modules in the working directory first, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _import_file(path: Path) -> ModuleType:
    """Import a file once, under a name that no other module has."""
    place = str(path.resolve())
    name = f"{path.stem}_{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, place)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look up their module here
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
