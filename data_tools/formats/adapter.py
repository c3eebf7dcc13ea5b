"""How a format is told from a row: the keys it needs and the kinds of value under them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from data_tools.formats.record import ALIASES, Data, Record, Unusable
from data_tools.reading import Row

Result: TypeAlias = "Record | list[Record | Unusable]"
Tags: TypeAlias = Mapping[str, str]
Gather: TypeAlias = Callable[[Iterable[Row]], Iterator[Row]]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One format: how to know it, and a pure function from a row to a record.

    Attributes:
        name: What `--format` calls it.
        needs: Keys that must stand in a row, with the kinds of value each may hold, joined by `|`:
            text, number, flag, object, list, texts, turns (objects), numbers, lists.
        read: Makes the record; raises Unusable for a row that cannot become one.
        when: A look into the values, where keys and kinds do not tell; makes the format win.
        aliased: The needed keys are parts, found under any of their aliases.
        strength: Of several that match, only the strongest count: 2 named formats, 1 plain
            shapes, 0 what nearly every row holds.
        gather: Joins rows that belong together (one answer a row, one message a row) before read.
        auto: Whether it may be detected; else it must be named.
    """

    name: str
    needs: Mapping[str, str]
    read: Callable[[Data], Result]
    when: Callable[[Data], bool] | None = None
    aliased: bool = False
    strength: int = 2
    gather: Gather | None = None
    auto: bool = True
    kinds: Mapping[str, frozenset[str]] = field(init=False)

    def __post_init__(self) -> None:
        kinds = {key: frozenset(kind.split("|")) for key, kind in self.needs.items()}
        object.__setattr__(self, "kinds", kinds)

    def keys_in(self, tags: Tags) -> frozenset[str] | None:
        """The keys of a row that this format is known by, or None where it is not this format."""
        found = set()
        for key, kinds in self.kinds.items():
            name = self._present(key, tags)
            if name is None or not fits(tags[name], kinds):
                return None
            found.add(name)
        return frozenset(found)

    def missing(self, tags: Tags) -> list[str]:
        """What stands between a row and this format, one phrase a key."""
        phrases = []
        for key, kinds in self.kinds.items():
            name = self._present(key, tags)
            if name is None:
                phrases.append(f"no {key!r}")
            elif not fits(tags[name], kinds):
                phrases.append(f"{name!r} is {tags[name]}, wanted {' or '.join(sorted(kinds))}")
        return phrases

    def lacks(self, data: Data) -> list[str]:
        """What stands between a row and this format, one phrase a key."""
        return self.missing({key: tag(value) for key, value in data.items()})

    def records(self, data: Data) -> list[Record | Unusable]:
        """All records of a row, and what of it could not be used.

        Raises:
            Unusable: Where nothing of the row can be used.
        """
        result = self.read(data)
        return result if isinstance(result, list) else [result]

    def _present(self, key: str, tags: Tags) -> str | None:
        names = ALIASES[key] if self.aliased else (key,)
        return next((name for name in names if name in tags), None)


def tag(value: object) -> str:
    """The kind of a value as formats name it; an empty list may be a list of anything."""
    if isinstance(value, list):
        if not value:
            return "empty list"
        inner = {"text": "texts", "object": "turns", "number": "numbers"}
        return inner.get(tag(value[0]), "lists")
    names = {str: "text", dict: "object", bool: "flag", int: "number", float: "number"}
    return names.get(type(value), "null")


def fits(found: str, wanted: frozenset[str]) -> bool:
    """Whether a value of kind `found` may stand where `wanted` kinds are asked for."""
    if found in wanted:
        return True
    if found == "empty list":
        return not wanted.isdisjoint(LISTS)
    return found in LISTS and "list" in wanted


LISTS = frozenset({"list", "texts", "turns", "numbers", "lists"})
