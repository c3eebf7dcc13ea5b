"""Check names that become files, folders or web pages: none may lead out of its folder."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alignment.errors import ConfigError, place_of

#: Trackers show these names, and some use them as file names.
_LABELS = ("run_name", "run_group", "project")
#: Names of models and spaces on the hub.
_HUB_NAMES = ("hub_model_id", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
#: Branches, tags and commits; the hub's cache keeps a file for each.
_REVISIONS = ("model_revision", "hub_revision")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_names(values: Mapping[str, Any], source: Callable[[str], str]) -> None:
    """Check that no name leads out of its folder; `source` gives the place of a key.

    Raises:
        ConfigError: A name would leave its folder, or contains a character that no file name can.
    """
    for key, text in _texts(values):
        if "\0" in text:
            raise ConfigError(f"{place_of(source(key))}{key}: contains a NUL byte", "remove it")
    for key in (*_LABELS, *_REVISIONS, *_HUB_NAMES):
        name = values.get(key)
        if not isinstance(name, str):  # trackio_static_space_id may be true or false
            continue
        fault = find_fault_of_name(name)
        if fault is None and key in _HUB_NAMES:
            fault = None if HUB_NAME.fullmatch(name) else "is not a hub name"
        if fault is not None:
            remedy = "use owner/name" if key in _HUB_NAMES else "use a plain name such as demo-1"
            where = place_of(source(key))
            raise ConfigError(f"{where}{key}: {values[key]!r} {fault}", remedy)


def find_fault_of_name(name: str | None) -> str | None:
    """The reason why a name cannot be used; None if it can."""
    if name is None:
        return None
    if _CONTROL.search(name):
        return "contains a control character"
    if name.startswith(("/", "\\", "~")) or _DRIVE.match(name) or ".." in re.split(r"[/\\]", name):
        return "would leave its folder"
    return None


def _texts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield key, text
