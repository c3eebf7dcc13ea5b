"""Read and check a pipeline file.

    name: demo
    output_dir: runs/demo
    stages:
      sft: {config: sft.yaml}
      rm:  {config: rm.yaml, needs: {model: sft}}
      ppo: {config: ppo.yaml, needs: {model: sft, reward_model: rm}}

A name under ``stages`` is the stage itself, or any name with ``stage: dpo`` in its body. A stage
may only need earlier ones, so there is no cycle to find.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import ConfigError
from alignment.registry import STAGES
from alignment.settings.names import find_fault_of_name
from alignment.settings.resolve import did_you_mean, unknown_key
from alignment.settings.yaml_file import Entry, read_yaml

_KEYS = ("name", "output_dir", "stages")
_STEP_KEYS = ("stage", "config", "needs", "set", "nproc", "accelerate")


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a pipeline: its recipes, its settings as flags, its needs and its folder.

    ``needs`` maps a role to the name of an earlier step.
    """

    name: str
    stage: str
    recipes: tuple[str, ...]
    flags: tuple[str, ...]
    needs: dict[str, str]
    folder: Path


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline file: its name, the folder of its runs, and its steps in order."""

    name: str
    folder: Path
    steps: tuple[Step, ...]


def is_pipeline(path: Path) -> bool:
    """Whether a YAML file is a pipeline, which has the key ``stages``.

    Raises:
        ConfigError: The file cannot be read.
    """
    return any(entry.key == "stages" for entry in read_yaml(path))


def read_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline file; ``overrides`` are ``stage.key=value`` and come last.

    Raises:
        ConfigError: A key, stage or role is unknown, or a need does not name an earlier stage.
    """
    top = {entry.key: entry for entry in read_yaml(path)}
    _check_top(path, top)
    for key in ("output_dir", "stages"):
        if key not in top:
            raise ConfigError(f"{path}: no '{key}'", f"a pipeline has {', '.join(_KEYS)}")
    stages = top["stages"].value
    if not isinstance(stages, dict) or not stages:
        raise ConfigError(f"{top['stages'].where}: no stages", "sft: {config: sft.yaml}")
    for key in ("output_dir", "name"):
        if key in top and "\0" in str(top[key].value):
            raise ConfigError(f"{top[key].where}: {key}: contains a NUL byte", "remove it")
    folder = Path(str(top["output_dir"].value))
    steps: dict[str, Step] = {}
    for name, body in stages.items():
        reader = _StepReader(f"{top['stages'].where}: {name}", path.parent, tuple(steps))
        steps[name] = reader.read(name, {} if body is None else body, folder)
    name = str(top["name"].value) if "name" in top else folder.name
    fault = find_fault_of_name(name)
    if fault is not None:
        raise ConfigError(f"{top['name'].where}: name: {name!r} {fault}", "use a plain word")
    return Pipeline(name, folder, tuple(_override(steps, overrides).values()))


def _check_top(path: Path, top: Mapping[str, Entry]) -> None:
    if "stages" not in top and not set(top) <= set(_KEYS):
        stage = path.stem if path.stem in STAGES else "STAGE"
        raise ConfigError(f"{path}: is a recipe, not a pipeline", f"align {stage} {path}")
    for key, entry in top.items():
        if key not in _KEYS:
            raise unknown_key(key, _KEYS, where=entry.where, owner="align run")


@dataclass(frozen=True, slots=True)
class _StepReader:
    where: str
    folder: Path
    earlier: tuple[str, ...]

    def read(self, name: str, body: Any, folder: Path) -> Step:
        if not isinstance(body, dict):
            raise ConfigError(
                f"{self.where}: not a mapping", f"write {name}: {{config: {name}.yaml}}"
            )
        for key in body:
            if key not in _STEP_KEYS:
                raise unknown_key(key, _STEP_KEYS, where=self.where, owner="align run")
        if Path(name).name != name or name == "." or find_fault_of_name(name) is not None:
            raise ConfigError(f"{self.where}: a name cannot leave the folder", "use a plain word")
        stage = str(body.get("stage", name))
        if stage not in STAGES:
            hint = did_you_mean(stage, STAGES) or f"stages are {', '.join(STAGES)}"
            raise ConfigError(f"{self.where}: no stage '{stage}'", hint)
        launch = [f"--{key}={body[key]}" for key in ("nproc", "accelerate") if key in body]
        return Step(
            name=name,
            stage=stage,
            recipes=self._recipes(body.get("config", [])),
            flags=(*_flags(body.get("set") or {}, self.where), *launch),
            needs=self._needs(body.get("needs") or {}, stage),
            folder=folder / name,
        )

    def _recipes(self, config: Any) -> tuple[str, ...]:
        names = config if isinstance(config, list) else [config]
        if any("\0" in str(name) for name in names):
            raise ConfigError(f"{self.where}: config: contains a NUL byte", "remove it")
        paths = [self.folder / str(name) for name in names]
        for path in paths:
            if not path.is_file():
                raise ConfigError(f"{self.where}: config: {path}: no such file", "name a recipe")
        return tuple(map(str, paths))

    def _needs(self, needs: Any, stage: str) -> dict[str, str]:
        if not isinstance(needs, dict):
            raise ConfigError(f"{self.where}: needs: not a mapping", "needs: {model: sft}")
        for role, step in needs.items():
            if role not in STAGES[stage].roles:
                known = STAGES[stage].roles
                raise unknown_key(role, known, where=f"{self.where}: needs", owner=f"align {stage}")
            if step not in self.earlier:
                raise ConfigError(
                    f"{self.where}: needs {role}: no earlier stage '{step}'",
                    did_you_mean(str(step), self.earlier) or "stages run in the order of the file",
                )
        return dict(needs)


def _flags(mapping: Any, where: str) -> list[str]:
    """Turn `set: {beta: 0.3}` into the flags that a user would type."""
    if not isinstance(mapping, dict):
        raise ConfigError(f"{where}: set: not a mapping", "set: {beta: 0.3}")
    flags = []
    for key, value in mapping.items():
        values = value if isinstance(value, list) else ["null" if value is None else value]
        flags += [f"--{key}", *map(str, values)]
    return flags


def _override(steps: dict[str, Step], overrides: Sequence[str]) -> dict[str, Step]:
    """Append ``stage.key=value`` to the flags of its step."""
    for override in overrides:
        target, equals, value = override.partition("=")
        name, dot, key = target.partition(".")
        if not (equals and dot and key):
            raise ConfigError(
                f"--set {override}: not STAGE.KEY=VALUE", "for example --set ppo.beta=0.02"
            )
        if name not in steps:
            hint = did_you_mean(name, steps) or f"its stages are {', '.join(steps)}"
            raise ConfigError(f"--set {override}: no stage '{name}' in this pipeline", hint)
        old = steps[name]
        flags = (*old.flags, f"--{key}", value)
        steps[name] = Step(old.name, old.stage, old.recipes, flags, old.needs, old.folder)
    return steps
