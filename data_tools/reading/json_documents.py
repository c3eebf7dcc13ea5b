"""Reads JSON files that are one document: indented or joined objects, rows inside an object."""

import itertools
import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import orjson

from data_tools.reading.json_rows import BOM, fault_in, parse_member
from data_tools.reading.rows import LARGEST_ROW, Fault, Parsed

WRAPPERS = frozenset(
    {"data", "rows", "examples", "items", "records", "instances", "samples", "dataset"}
    | {"train", "test", "validation", "valid", "dev", "eval"}
)
"""Names under which an object holds the rows of a data set, or of one of its splits."""
NUMBERED = ("score", "scores", "sort", "rank", "ranks")
"""Lists that rank the answers of one row, so its other lists are no columns."""
SPACE = " \t\r\n"


class Span(NamedTuple):
    """A value in a text: where it begins and ends."""

    start: int
    end: int


class Document:
    """A text of JSON values, which knows their lines."""

    def __init__(self, raw: bytes) -> None:
        self.text = raw.removeprefix(BOM).decode()
        self._decoder = json.JSONDecoder()
        self._line, self._at = 1, 0

    def line(self, at: int) -> int:
        """Return the line of a place; places must be asked for in their order."""
        self._line += self.text.count("\n", self._at, at)
        self._at = at
        return self._line

    def value(self, span: Span) -> Any:
        """Return a value as the reader of lines parses it, or its Fault."""
        return parse_member(self.text[span.start : span.end].encode("utf-8", "surrogatepass"))[0]

    def values(self) -> Iterator[Span]:
        """Yield all values of the text, which nothing but white space separates."""
        at = self._skip(0)
        while at < len(self.text):
            span = self._span(at)
            yield span
            at = self._skip(span.end)

    def members(self, span: Span) -> Iterator[tuple[str, Span]]:
        """Yield the members of an object with their names, or of a list without."""
        closing = {"{": "}", "[": "]"}[self.text[span.start]]
        at = self._skip(span.start + 1)
        while self.text[at] != closing:
            name = ""
            if closing == "}":
                name, at = self._decoder.raw_decode(self.text, at)
                at = self._skip(self._skip(at) + 1)
            member = self._span(at)
            yield name, member
            at = self._skip(member.end)
            if self.text[at] == ",":
                at = self._skip(at + 1)

    def _span(self, at: int) -> Span:
        return Span(at, self._decoder.raw_decode(self.text, at)[1])

    def _skip(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in SPACE:
            at += 1
        return at


def is_wrapper(value: Any) -> bool:
    """Whether an object is no row, but holds the rows of a data set or its columns."""
    return isinstance(value, dict) and bool(_lists_of_rows(value) or _is_columns(value))


def document_rows(stream: IO[bytes]) -> Iterator[Parsed]:
    """Yield the rows of a document, with the line on which each begins."""
    raw = stream.read(LARGEST_ROW + 1)
    if len(raw) > LARGEST_ROW:
        reason = f"a JSON document of more than {LARGEST_ROW >> 20} MiB"
        yield 1, Fault(reason, "write one object per line: jq -c . FILE > rows.jsonl")
        return
    try:
        document = Document(raw)
        spans = list(document.values())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        yield line, Fault(f"not UTF-8: byte 0x{raw[error.start]:02x}", "see --encoding")
        return
    except json.JSONDecodeError as error:
        yield from _broken(raw, error)
        return
    except RecursionError:
        yield 1, Fault("nested too deep")
        return
    yield from _rows(document, spans)


def _rows(document: Document, spans: list[Span]) -> Iterator[Parsed]:
    for span in spans:
        value = document.value(span)
        if len(spans) == 1 and is_wrapper(value):
            yield from _unwrapped(document, span, value)
        elif isinstance(value, list):
            for _, member in document.members(span):
                yield document.line(member.start), document.value(member)
        else:
            yield document.line(span.start), value


def _unwrapped(document: Document, span: Span, value: dict[str, Any]) -> Iterator[Parsed]:
    """Yield the rows inside an object."""
    lists = _lists_of_rows(value)
    if len(lists) > 1:
        names = ", ".join(repr(name) for name in lists)
        remedy = f"write each to a file of its own: jq -c '.{lists[0]}[]' FILE > {lists[0]}.jsonl"
        yield (
            document.line(span.start),
            Fault(f"an object with several lists of rows: {names}", remedy),
        )
        return
    if not lists:
        first = document.line(span.start)
        columns = [list(v.values()) if isinstance(v, dict) else v for v in value.values()]
        for row in zip(*columns, strict=True):
            yield first, dict(zip(value, row, strict=True))
        return
    for name, member in document.members(span):
        if name == lists[0]:
            for _, row in document.members(member):
                yield document.line(row.start), document.value(row)


def _lists_of_rows(value: dict[str, Any]) -> list[str]:
    """Return the names under which an object holds rows, empty lists left out."""
    if not all(name.lower() in WRAPPERS for name, one in value.items() if _are_rows(one)):
        return []
    return [name for name, one in value.items() if _are_rows(one)]


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _is_columns(value: dict[str, Any]) -> bool:
    """Whether each value is a column: a list, or what pandas writes by row numbers."""
    if len(value) < 2 or any(name in NUMBERED for name in value):
        return False
    if all(isinstance(one, list) for one in value.values()):
        return _alike(list(value.values()))
    numbers = [list(one) if isinstance(one, dict) else [] for one in value.values()]
    if not all(one and one == numbers[0] and one[0].isdecimal() for one in numbers):
        return False
    return _alike([list(one.values()) for one in value.values()])


def _alike(columns: list[list[Any]]) -> bool:
    """Whether columns are of one length, and hold texts or lists of turns, not numbers."""
    if len({len(column) for column in columns}) != 1 or not columns[0]:
        return False
    kinds = (str, bool, list, type(None))
    return all(isinstance(cell, kinds) for cell in itertools.chain.from_iterable(columns))


def _broken(raw: bytes, error: json.JSONDecodeError) -> Iterator[Parsed]:
    """Yield the Fault of a document that breaks off or has an error."""
    at = len(error.doc[: error.pos].encode("utf-8", "surrogatepass"))
    line = error.lineno
    # in the words of the reader of lines, if it sees the same error
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as same:
        if not same.msg.startswith("unexpected content after"):  # as after each joined object
            yield same.lineno, fault_in(raw, same)
            return
    near = raw[at : at + 12].decode("utf-8", "replace")
    yield line, Fault(f"not JSON: {error.msg}, found {near!r}", column=error.colno)
