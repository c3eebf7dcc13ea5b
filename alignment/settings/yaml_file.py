"""Read YAML without converting values: scalars stay text until the type of their key is known.

PyYAML reads ``1e-5`` as a string, ``010`` as 8, ``12:30`` as 750, and uses the last of two equal
keys. This module only composes the file (no Python objects), so the text of each value goes through
the same conversion as a flag, with its line number.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import ConfigError

#: A recipe is about a page long. These limits stop alias bombs and deep nesting early.
MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 50

#: A value before its type is known: None, the text of a scalar, a list or a mapping.
Raw = None | str | list[Any] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One top-level key of a file with its value and its place, as file:line."""

    key: str
    value: Raw
    where: str


def read_yaml(path: Path) -> list[Entry]:
    """The top-level entries of a YAML mapping, in order.

    Raises:
        ConfigError: The file is missing, not YAML, not a mapping, repeats a key, or is too large.
    """
    import yaml

    if not path.is_file():
        raise ConfigError(f"{path}: no such file", "give the path of a YAML recipe")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes", "a recipe is a page of keys")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {error.problem}", _hint(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}", "save the file as UTF-8 text") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply", "a recipe is a flat list of keys") from None
    if root is None:
        raise ConfigError(f"{path}: empty", "write key: value lines")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:{root.start_mark.line + 1}: not a mapping", "write key: value")
    return _Reader(path).entries(root)


def _hint(error: Any) -> str:
    if "\\t" in str(error):
        return "indent with spaces, not with tabs"
    return "quote values that contain ': ' or start with a special character"


class _Reader:
    """Walks through a composed file and counts the nodes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.visited = 0

    def entries(self, root: Any) -> list[Entry]:
        mapping = self._mapping(root, 0)
        lines = {key.value: key.start_mark.line + 1 for key, _ in root.value}
        return [Entry(key, value, f"{self.path}:{lines[key]}") for key, value in mapping.items()]

    def _value(self, node: Any, depth: int) -> Raw:
        import yaml

        self.visited += 1
        if self.visited > MAX_NODES or depth > MAX_DEPTH:
            raise ConfigError(f"{self.path}: too many values or levels", "a recipe is a flat list")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, depth + 1) for item in node.value]
        return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            name = key.value if isinstance(key.value, str) else ""
            where = f"{self.path}:{key.start_mark.line + 1}"
            if not name:
                raise ConfigError(f"{where}: a key must be a word", "write key: value")
            if name in mapping:
                raise ConfigError(f"{where}: '{name}' is given twice", "keep one of them")
            mapping[name] = self._value(value, depth + 1)
        return mapping
