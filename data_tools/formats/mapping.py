"""Columns under names that no format knows: `--columns chosen=answer_good,prompt=question`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from alignment.errors import ConfigError
from data_tools.formats.context import NUMBERED
from data_tools.formats.detect import BY_NAME
from data_tools.formats.record import ALIASES, CONTEXT, Adapter, Data, Unusable, listed

PARTS = (
    "prompt", "chosen", "rejected", "completion", "label", "messages", "conversations",
    "rejected_messages", "text", "responses", "scores", "margin", "kto_tag", *CONTEXT,
)  # fmt: skip
"""What a column can be named as; the names that the plain formats read."""
_ALIASED = {
    name: part
    for part in ("prompt", "chosen", "rejected", "completion")
    for name in ALIASES[part]
    if name != "query"
}
SHAPES = tuple(
    BY_NAME[name]
    for name in (
        "pair", "messages-ranking", "sharegpt-ranking", "ms-swift-messages", "implicit", "scored",
        "ranked", "unpaired", "kto-messages", "kto-alpaca", "kto-sharegpt", "prompt-completion",
        "sharegpt", "messages", "text", "prompt",
    )
)  # fmt: skip
"""The formats that parts can make up; of several, the one with the most parts is meant."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a source holds which part.

    Attributes:
        parts: The column of each part, or a path into it (`completions.0.text`).
        adapter: The format of the renamed row; None: detected.
        optional: Parts that a row may lack.
        roles: The role for each name that the turns of a source give it; empty: the known ones.
        turn_keys: The keys of role and content in a turn, if they have names of their own.
    """

    parts: Mapping[str, str]
    adapter: Adapter | None = None
    optional: frozenset[str] = frozenset()
    roles: Mapping[str, str] = field(default_factory=dict)
    turn_keys: tuple[str, str] | None = None

    def renamed(self, data: Data) -> dict[str, Any]:
        """Return a row with its parts under the names that the formats know.

        Other columns stay; one whose name is taken by a part gets the name of its column in angle
        brackets, so that it is counted if nothing reads it.

        Raises:
            Unusable: If a column is not there; `missing`.
        """
        found = {}
        # the reader of tables makes the capitals of a header lower case
        parts = {
            part: name.lower() if name not in data and name.lower() in data else name
            for part, name in self.parts.items()
        }
        for part, column in parts.items():
            value = _at(data, column)
            if value is not _ABSENT:
                found[part] = self._turns(value)
            elif part not in self.optional:
                raise Unusable(
                    "missing", f"no column {column!r} for {part!r}: the row has {listed(data)}"
                )
        taken = {column for column in parts.values() if column in data}
        # a path reads a part of its column: what else is in it stays, but is no context
        inner = {column.partition(".")[0] for column in parts.values()} - taken
        hidden = {*found, *(inner & {*CONTEXT})}
        rest = {name: value for name, value in data.items() if name not in taken}
        return {**found, **{f"<{k}>" if k in hidden else k: v for k, v in rest.items()}}

    def check_single(self, adapter: Adapter | Unusable) -> None:
        """See that rows are not joined, which reads their own columns.

        Raises:
            ConfigError: If they are.
        """
        if isinstance(adapter, Adapter) and adapter.gather:
            raise ConfigError(
                f"columns: the rows of {adapter.name!r} are joined by their own columns",
                "leave --columns out",
            )

    def _turns(self, value: Any) -> Any:
        """Return turns with the keys and roles that the formats know."""
        if not self.roles or not isinstance(value, list | dict):
            return value
        if isinstance(value, dict):
            return self._turn(value)
        return [self._turn(turn) if isinstance(turn, dict) else turn for turn in value]

    def _turn(self, turn: dict[str, Any]) -> dict[str, Any]:
        role_key, content_key = self.turn_keys or ("from", "value")
        if role_key not in turn or content_key not in turn:
            return turn
        rest = {key: held for key, held in turn.items() if key not in (role_key, content_key)}
        role = turn[role_key]
        return {"role": self.roles.get(role, role), "content": turn[content_key], **rest}


class ReadOptions(TypedDict):
    """How the rows of sources are read, in every command.

    Attributes:
        format: The format of all rows; None: that of each is detected.
        columns: Which columns hold which parts; None: those that the formats know.
        encoding: The encoding of all text files; None: that of each is detected.
    """

    format: str | None
    columns: Columns | None
    encoding: str | None


def read_options(
    format: str | None = None,
    columns: str | Mapping[str, Any] | None = None,
    encoding: str | None = None,
) -> ReadOptions:
    """Return what a user says of the rows, with the columns parsed.

    Raises:
        ConfigError: If the columns cannot be parsed.
    """
    named = parse_columns(columns, format=format) if columns else None
    return {"format": format or None, "columns": named, "encoding": encoding}


def parse_columns(given: str | Mapping[str, Any], *, format: str | None = None) -> Columns:
    """Read `part=column,part=column`, or a mapping of parts to columns.

    Raises:
        ConfigError: If a part is unknown or named twice, or the parts make up nothing.
    """
    needs = BY_NAME[format].needs if format in BY_NAME else {}
    parts: dict[str, str] = {}
    for name, column in _pieces(given):
        part = name if name in needs else _ALIASED.get(name, name)
        if part not in PARTS and part not in needs:
            raise ConfigError(f"columns: {name!r} is no part", f"parts: {', '.join(PARTS)}")
        if part in parts:
            raise ConfigError(f"columns: {part!r} is named twice", "name one column for each part")
        parts[part] = column
    if not parts:
        raise ConfigError("columns: no part is named", _EXAMPLE)
    return Columns(parts, BY_NAME.get(format) if format else _made_up(parts))


def _pieces(given: str | Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the parts that are named, each with its column."""
    if isinstance(given, Mapping):
        for name, column in given.items():
            # a column may be called 0, which YAML gives as a number
            if isinstance(column, bool | float | list | dict) or column in (None, ""):
                raise ConfigError(f"columns: {name!r} names no column", _EXAMPLE)
            yield name, str(column)
        return
    for piece in filter(None, (piece.strip() for piece in given.split(","))):
        name, found, column = (word.strip() for word in piece.partition("="))
        if not found or not column:
            raise ConfigError(f"columns: {piece!r} is not PART=COLUMN", _EXAMPLE)
        yield name, column


def _made_up(parts: Mapping[str, str]) -> Adapter | None:
    """The format that parts make up by themselves; None if the row has to give more."""
    whole = [adapter for adapter in SHAPES if adapter.needs.keys() <= parts.keys()]
    best = max(whole, key=lambda adapter: len(adapter.needs), default=None)
    # a chosen answer without the rejected one: the row may have it under a known name
    if best is None or parts.keys() - {*best.needs, *best.reads, *NUMBERED, *CONTEXT}:
        return None
    return best


_EXAMPLE = "as in --columns prompt=question,chosen=answer_good,rejected=answer_bad"
_ABSENT = object()


def _at(data: Data, column: str) -> Any:
    """The value of a column, or at a path of keys and places (from 0) into one."""
    if column in data:
        return data[column]
    value: Any = data
    for step in column.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _ABSENT
    return value
