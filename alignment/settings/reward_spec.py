"""What a reward is: a model in a folder or on the hub, a Python function, or a scorer behind HTTP.

Settings, `align plan`, a run's record and the loading of rewards all ask `parse_reward`.
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
    """A reward as it was named.

    Attributes:
        kind: What it is.
        text: The name as it was given.
        source: Of a function: its module's name, or the path of its `.py` file.
        function: Of a function: its name there.
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
    def is_file(self) -> bool:
        """Whether it is a function that is named by the path of its file."""
        return self.source.endswith(".py")


def parse_reward(text: str, *, role: str = "reward_model") -> RewardSpec:
    """Say what a reward is from its name; nothing is loaded or imported.

    A folder that exists is a folder, whatever else its name could mean.

    Args:
        text: The name.
        role: Begins the message of an error.

    Raises:
        ConfigError: It can be none of them.
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
    """Find the file of a function, as the import will find it, and import nothing.

    Settings are also checked for dry runs, plans and pipelines. None of those may run a user's
    code, which can take long, claim a GPU or write files; `load_function` runs it, in a stage's
    own process, which would import it anyway.

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
        # By hand: importlib.util.find_spec imports the packages above a module.
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
            What else the import raises is a bug of that code and keeps its traceback.
    """
    file = find_source(spec, role=role)
    try:
        module = _import_file(Path(spec.source)) if spec.is_file else _import_module(spec.source)
    except SyntaxError as error:
        raise ConfigError(
            f"{role}: {error.filename or file}:{error.lineno}: {error.msg}", "fix that line"
        ) from error
    try:
        function = getattr(module, spec.function)  # of any kind: TRL's modules load lazily
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
    except ValueError:  # a port that is no number, an address that is none
        return False


def _is_module_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _find_top_level(name: str) -> ModuleSpec | None:
    before = sys.path.copy()
    _add_working_folder()
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module that no file made, such as `__main__`
        return None
    finally:
        sys.path[:] = before


def _import_module(name: str) -> ModuleType:
    _add_working_folder()  # for good: the function may import more when it is called
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
    sys.modules[name] = module  # before it runs: dataclasses and pickle look themselves up there
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
