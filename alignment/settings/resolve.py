"""Read YAML files and flags into settings: one parser, the same checks, and the source of each.

``align dpo a.yaml b.yaml --beta 0.3``: files first, later ones override earlier ones, flags
override files. Nothing here imports torch; the dataclasses are built from settings by ``build``.
"""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignment.errors import ConfigError
from alignment.registry import STAGES
from alignment.secrets import redact
from alignment.settings.ignored import check_ignored
from alignment.settings.late_faults import blame
from alignment.settings.names import check_names
from alignment.settings.other_names import is_flag, long_flag, other_name
from alignment.settings.precision import loaded_dtype, uses_bf16
from alignment.settings.rules import check_combinations
from alignment.settings.schema import Key, Schema, dataclasses_of, schema_of
from alignment.settings.yaml_file import Entry, Raw, read_yaml

#: Keys that transformers 5.23 renamed; TRL's defaults still have the old names.
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_INTEGER = re.compile(r"[+-]?\d+")
_WANTED = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "json": "a mapping",
    "str": "text",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The resolved settings of one stage.

    ``values`` holds every key. ``sources`` holds the place (file:line or flag) of each key that was
    given, and ``default`` for the output folder, whose default is not TRL's.
    """

    stage: str
    values: dict[str, Any]
    sources: dict[str, str]
    schema: Schema

    def changed(self) -> dict[str, tuple[Any, str]]:
        """The keys that differ from their default, each with its value and source."""
        return {
            key: (self.values[key], source)
            for key, source in self.sources.items()
            if source != "default" and self.values[key] != self.schema[key].default
        }

    def blame(self, error: BaseException) -> ConfigError | None:
        """The error of a library as a user error, if it is about a key that was given."""
        given = {key: value for key, (value, _) in self.changed().items()}
        return blame(error, given, self.sources)

    def source(self, key: str) -> str:
        """Where the value of a key comes from: file:line, a flag, or its default."""
        return self.sources.get(key, "default")


def resolve(
    stage: str, argv: list[str], *, elsewhere: bool = False, options: Iterable[str] = ()
) -> Settings:
    """Read the recipes and flags of one stage.

    Args:
        stage: The stage.
        argv: Recipes, then flags.
        elsewhere: Whether the run is planned for another machine.
        options: Further flags that the hint for an unknown key may suggest.

    Raises:
        ConfigError: A file or value is missing, a key is unknown, a value has the wrong type, or
            values cannot work together.
    """
    schema = schema_of(stage)
    files, flags = split_argv(argv)
    entries = [entry for file in files for entry in read_yaml(Path(file))]
    entries += read_flags(flags, schema)
    values = {name: key.default for name, key in schema.items()}
    values["output_dir"] = f"runs/{stage}"
    values["dtype"] = None  # `precision.loaded_dtype` chooses, unless one is given
    settings = Settings(stage, values, {"output_dir": "default"}, schema)
    _check_keys(stage, entries, (*schema, *options))
    for entry in entries:
        name = entry.key.replace("-", "_")
        name = _RENAMED.get(name, name)
        settings.values[name] = convert(schema[name], entry.value, entry.where)
        settings.sources[name] = entry.where
    check_names(settings.values, settings.source)
    check_combinations(stage, settings.values, settings.source, elsewhere=elsewhere)
    check_ignored(stage, settings.values, settings.changed(), settings.source)
    return settings


def _check_keys(stage: str, entries: list[Entry], known: tuple[str, ...]) -> None:
    """Report all unknown keys at once, and a pipeline that is given to a stage.

    Raises:
        ConfigError: A key is unknown.
    """
    unknown = [entry for entry in entries if entry.key.replace("-", "_") not in known]
    pipeline = next((entry for entry in unknown if entry.key == "stages"), None)
    if pipeline is not None and not pipeline.where.startswith("--"):
        file = pipeline.where.rpartition(":")[0]
        raise ConfigError(f"{file}: is a pipeline, not a recipe of {stage}", f"align run {file}")
    if len(unknown) == 1:
        (entry,) = unknown
        raise unknown_key(entry.key, known, where=entry.where, owner=f"align {stage}")
    if unknown:
        named = ", ".join(
            f"'{entry.key}'" + ("" if entry.where.startswith("--") else f" ({entry.where})")
            for entry in unknown
        )
        hints = [
            hint.replace("did you mean", f"{entry.key}: did you mean")
            for entry in unknown
            if (hint := hint_of(entry.key, known))
        ]
        raise ConfigError(
            f"{len(unknown)} unknown keys: {named}",
            "; ".join(hints) or f"`align {stage} --help-all` lists every key",
        )


def build(settings: Settings) -> tuple[Any, ...]:
    """Build the dataclasses of a stage: DataArgs, RunArgs, ModelConfig and the trainer's config.

    Raises:
        ConfigError: TRL or transformers rejects a combination of values.
    """
    built = []
    for owner in dataclasses_of(settings.stage):
        names = {field.name for field in dataclasses.fields(owner) if field.init}
        given = {key: settings.values[key] for key in settings.sources if key in names}
        if "bf16" in names:
            given["bf16"] = uses_bf16(settings.values)
        if "metric_for_best_model" in names and _needs_best(settings.values):
            stage = STAGES[settings.stage]
            if given.get("metric_for_best_model") is None:
                given["metric_for_best_model"] = stage.best_metric
            if given.get("greater_is_better") is None:
                given["greater_is_better"] = stage.direction(given["metric_for_best_model"])
        if "dtype" in names:
            given["dtype"] = loaded_dtype(settings.values, adapted=settings.values["use_peft"])
        for old, new in _RENAMED.items():
            if new in names and given.get(new) is None:
                given[new] = settings.values[old]
        try:
            built.append(owner(**given))
        except (ValueError, TypeError, ImportError, NotImplementedError) as error:
            # the dataclasses raise them for invalid values
            message = " ".join(str(error).split())
            raise (
                settings.blame(error)
                or ConfigError(
                    f"align {settings.stage}: {message}", "change the keys in this message"
                )
            ) from error
    return tuple(built)


def _needs_best(values: Mapping[str, Any]) -> bool:
    """Whether a run compares its checkpoints by held-out rows."""
    return bool(
        values["load_best_model_at_end"]
        or values["early_stopping_patience"]
        or values["save_strategy"] == "best"
        or values["lr_scheduler_type"] == "reduce_lr_on_plateau"
    )


def split_argv(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into recipes and flags."""
    first_flag = next((i for i, word in enumerate(argv) if is_flag(word)), len(argv))
    return argv[:first_flag], argv[first_flag:]


def read_flags(flags: list[str], schema: Schema) -> list[Entry]:
    """Parse flags: ``--key a b``, ``--key=value``, ``--flag`` and ``--no_flag``."""
    entries: list[Entry] = []
    position = 0
    while position < len(flags):
        word, equals, inline = long_flag(flags[position]).partition("=")
        position += 1
        end = position
        while end < len(flags) and not is_flag(flags[end]):
            end += 1
        values = ([inline] if equals else []) + flags[position:end]
        position = end
        entry = _read_flag(word, values, schema)
        if isinstance(entry.value, list) and any(entry.key == other.key for other in entries):
            raise ConfigError(f"{word}: given twice", f"write {word} A B, once")
        entries.append(entry)
    return entries


def _read_flag(word: str, values: list[str], schema: Schema) -> Entry:
    name = word.removeprefix("--").replace("-", "_")
    if name not in schema and name.startswith("no_") and name[3:] in schema:
        key = schema[name[3:]]
        if key.types == ("bool",) and not values:
            return Entry(key.name, "false", word)
    if name not in schema:
        return Entry(name, None, word)
    key = schema[name]
    if not values and "bool" in key.types:
        return Entry(name, "true", word)
    if not values:
        raise ConfigError(f"{word}: a value is missing", f"write {word} VALUE")
    if key.many or len(values) > 1:
        return Entry(name, list(values), word)
    return Entry(name, values[0], word)


def convert(key: Key, raw: Raw, where: str) -> Any:
    """Convert the written text to the type of a key.

    Raises:
        ConfigError: The text is not of any type that the key accepts.
    """
    if raw is None or (key.optional and isinstance(raw, str) and raw.lower() == "null"):
        if key.optional or key.default is None:
            return None
        raise _wrong(key, "null", where)
    if isinstance(raw, list):
        if not key.many:
            raise _wrong(key, json.dumps(raw, ensure_ascii=False), where)
        if len(raw) == 1 and isinstance(key.default, str):  # `report_to: [none]` means `none`
            return _convert_one(key, raw[0], where)
        return [_convert_one(key, item, where) for item in raw]
    value = _convert_one(key, raw, where)
    if key.many and not isinstance(key.default, str):
        return [value]
    return value


def _convert_one(key: Key, raw: Raw, where: str) -> Any:
    for kind in key.types:
        if kind == "bool" and "str" in key.types and raw not in ("true", "false"):
            continue  # if the key also accepts text, `no` is text
        value = _try(kind, raw)
        if value is not None:
            if key.choices and value not in key.choices:
                known = [str(choice) for choice in key.choices]
                raise ConfigError(
                    f"{_place(key, where)}: '{value}' is none of {', '.join(known)}",
                    did_you_mean(str(value), known) or "choose one of these",
                )
            return value
    raise _wrong(key, raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False), where)


def _try(kind: str, raw: Raw) -> Any:
    """The value as one type; None if it is not of that type."""
    if kind == "json":
        return _try_mapping(raw)
    if not isinstance(raw, str):
        return None
    if kind == "str":
        return raw
    if kind == "int":
        return int(raw) if _INTEGER.fullmatch(raw) else None
    if kind == "bool":
        return True if raw.lower() in _TRUE else False if raw.lower() in _FALSE else None
    try:
        number = float(raw)
    except ValueError:
        return None
    return None if math.isnan(number) or "_" in raw else number


def _try_mapping(raw: Raw) -> Any:
    if isinstance(raw, dict):
        return _scalars(raw)
    if isinstance(raw, str) and raw.lstrip().startswith("{"):
        try:
            return json.loads(raw)
        except json.JSONDecodeError:
            return None
    return None


def _scalars(raw: Raw) -> Any:
    """Values inside a mapping have no declared type: use the narrowest that fits."""
    if isinstance(raw, dict):
        return {key: _scalars(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_scalars(item) for item in raw]
    if raw is None:
        return None
    if raw in ("true", "True", "false", "False"):
        return raw.lower() == "true"
    for kind in ("int", "float"):
        value = _try(kind, raw)
        if value is not None:
            return value
    return raw


def _wrong(key: Key, found: str, where: str) -> ConfigError:
    wanted = " or ".join(_WANTED[kind] for kind in key.types)
    return ConfigError(f"{_place(key, where)}: expected {wanted}, got '{found}'", _describe(key))


def _place(key: Key, where: str) -> str:
    return where if where.startswith("--") else f"{where}: {key.name}"


def _describe(key: Key) -> str:
    default = json.dumps(key.default, ensure_ascii=False)
    first_sentence = key.help.split(". ")[0].rstrip(".")
    return f"the default is {default}" + (f"; {first_sentence}" if first_sentence else "")


def unknown_key(name: str, known: Iterable[str], *, where: str, owner: str) -> ConfigError:
    """The error for an unknown key, with the key that was meant as a hint."""
    hint = hint_of(name, known)
    return ConfigError(
        f"{where}: unknown key '{name}'", hint or f"`{owner} --help-all` lists every key"
    )


def hint_of(name: str, known: Iterable[str]) -> str:
    """The key that an unknown one stands for: another tool's name of it, else the most similar."""
    keys = list(known)
    return other_name(name, keys) or did_you_mean(name.replace("-", "_"), keys)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'did you mean ...?' with the most similar word; empty if none is similar."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""


def describe(settings: Settings) -> str:
    """One aligned line for each key that differs from its default: key, value and source."""
    changed = settings.changed()
    width = max((len(key) for key in changed), default=0)
    values = {key: str(redact(key, value)) for key, (value, _) in changed.items()}
    value_width = min(60, max((len(value) for value in values.values()), default=0))
    return "\n".join(
        f"{key:<{width}}  {values[key]:<{value_width}}  {source}"
        for key, (_, source) in sorted(changed.items())
    )
