"""The keys of each stage, read from our dataclasses and TRL's, and cached as JSON.

Importing a TRL config takes three to five seconds, which is too slow for help, for the checks
before a run and for ``align run``. So the keys are read once for each set of installed versions.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib
import importlib.metadata
import json
import os
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment.disk import digest_file
from alignment.registry import STAGES

Schema = dict[str, "Key"]

#: Mappings that may also be given as text: the path of a file, or our own short form.
_TEXT_OR_MAPPING = ("deepspeed", "fsdp_config", "accelerator_config", "columns")
#: The types in the order in which a value is tried.
_SCALARS = {int: "int", float: "float", bool: "bool", dict: "json", str: "str"}


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One key: its type, default, help and dataclass.

    ``types`` are among int, float, bool, json (a mapping) and str, and are tried in order; ``many``
    means that the key accepts several values; ``group`` is the dataclass that defines it.
    """

    name: str
    types: tuple[str, ...]
    many: bool
    optional: bool
    choices: tuple[Any, ...] | None
    default: Any
    help: str
    group: str


def schema_of(stage: str) -> Schema:
    """The keys of a stage, from the cache if the installed versions are the same."""
    path = _cache_path(stage)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        rows = [dataclasses.asdict(key) for key in _read_keys(stage)]
        _store(path, json.dumps(rows, ensure_ascii=False))
        rows = json.loads(json.dumps(rows))
    return {row["name"]: _key(row) for row in rows}


def dataclasses_of(stage: str) -> tuple[type, ...]:
    """The dataclasses with a stage's keys: ours, TRL's ModelConfig, and the trainer's config."""
    from trl import ModelConfig

    from alignment.settings.args import DataArgs, RunArgs

    module, _, name = STAGES[stage].config.partition(":")
    return (DataArgs, RunArgs, ModelConfig, getattr(importlib.import_module(module), name))


def _key(row: dict[str, Any]) -> Key:
    choices = row["choices"]
    return Key(
        **{
            **row,
            "types": tuple(row["types"]),
            "choices": tuple(choices) if choices is not None else None,
        }
    )


def _cache_path(stage: str) -> Path:
    """The cache file, whose name changes if anything changes that could affect the keys."""
    here = Path(__file__).parent
    config = STAGES[stage].config
    own = here.parent.parent / Path(*config.partition(":")[0].split(".")).with_suffix(".py")
    identity = [
        config,
        sys.version,
        *(importlib.metadata.version(name) for name in ("trl", "transformers", "torch", "peft")),
        *(
            digest_file(path)
            for path in (here / "args.py", here / "schema.py", own)
            if path.exists()
        ),
    ]
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "align" / f"keys-{stage}-{digest}.json"


def _store(path: Path, text: str) -> None:
    """Write the cache; if this fails, the next start only takes longer."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        return


def _read_keys(stage: str) -> Iterator[Key]:
    for owner in dataclasses_of(stage):
        hints = typing.get_type_hints(owner)
        for field in dataclasses.fields(owner):
            if field.init and not field.name.startswith("_"):
                key = _read_key(field, hints[field.name], owner.__name__)
                if key is not None:
                    yield key


def _read_key(field: dataclasses.Field[Any], hint: Any, group: str) -> Key | None:
    names, many, optional, choices = _unfold(hint)
    if not names:  # an object that no recipe can express, such as a ParallelismConfig
        return None
    if "json" in names and field.name not in _TEXT_OR_MAPPING:
        names -= {"str"}  # TRL reads JSON from it, as we do
    declared = field.metadata.get("choices")
    help_text = " ".join(str(field.metadata.get("help", "")).split())
    return Key(
        name=field.name,
        types=tuple(name for name in _SCALARS.values() if name in names),
        many=many,
        optional=optional,
        choices=tuple(declared) if declared else choices,
        default=_plain(_default(field)),
        help=help_text,
        group=group,
    )


def _unfold(hint: Any) -> tuple[set[str], bool, bool, tuple[Any, ...] | None]:
    """Parse a type hint: scalar types, whether a list, whether None is allowed, and choices."""
    names: set[str] = set()
    many = optional = False
    choices: tuple[Any, ...] | None = None
    pending = [hint]
    while pending:
        part = pending.pop()
        origin, arguments = typing.get_origin(part), typing.get_args(part)
        if part is type(None):
            optional = True
        elif origin in (typing.Union, types.UnionType):
            pending += arguments
        elif origin in (list, tuple) or part in (list, tuple):
            many = True
            pending += [argument for argument in arguments if argument is not Ellipsis] or [str]
        elif origin is typing.Literal:
            names |= {_SCALARS[type(argument)] for argument in arguments}
            choices = arguments if arguments != (False,) else None
        elif isinstance(part, type) and issubclass(part, enum.Enum):
            names.add("str")
            choices = None if many else tuple(member.value for member in part)
        elif (origin or part) in _SCALARS:
            names.add(_SCALARS[origin or part])
    return names, many, optional, choices


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
