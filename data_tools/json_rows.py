"""Rows of JSON text, in pieces of constant memory: one array of objects, or one object a line.

A large array is cut at `}` `,` `{"first key"`, and the parser proves the cut: text cut inside a
string or a nested list cannot parse once one `]` is added, because what opened before the cut is
still open. Proved pieces go through orjson whole, which keeps both the speed of a parser that
sees many rows at once and the line and column of what is wrong, which an event parser loses.
"""

import itertools
import json
import re
from collections.abc import Iterator
from typing import IO, Any, TypeAlias

import orjson

from data_tools.rows import Fault

Parsed: TypeAlias = tuple[int | None, Any]
"""A line, where one is known, and the row or its Fault."""

PIECE = 1 << 17
"""Bytes parsed at once: more of them leave the cache before their rows are used."""
UNFINISHED = "unexpected end of data"
FIRST_KEY = re.compile(rb'\s*\[\s*\{\s*("(?:[^"\\]|\\.)*")')
BOM = b"\xef\xbb\xbf"


def line_rows(stream: IO[bytes]) -> Iterator[Parsed]:
    """One row a line; blank lines are passed over, a BOM and CRLF are taken as they come."""
    for line, text in enumerate(stream, start=1):
        if line == 1:
            text = text.removeprefix(BOM)
        if not text.isspace():
            yield line, parse_line(text)


def parse_line(text: bytes) -> Any:
    """The value of one line, or the Fault in it."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return fault_in(text, error)
    return _repeated_keys(text, [value]).get(0, value) if type(value) is dict else value


def array_rows(stream: IO[bytes]) -> Iterator[Parsed]:
    """The members of one large array. A member that cannot be parsed is a Fault at its line."""
    line, pending = 1, b""
    for raw, last in array_pieces(stream):
        pending += raw
        try:
            yield from parse_piece(pending, last=last)
        except orjson.JSONDecodeError as error:
            if not last and error.msg.startswith(UNFINISHED):
                continue  # the cut fell inside a row: take the next piece to it
            yield from _rescue(pending, line, last=last)
        line += pending.count(b"\n")
        pending = b""


def array_pieces(stream: IO[bytes], *, times: int = 1) -> Iterator[tuple[bytes, bool]]:
    """Cut an array, its `[` taken off, before members that begin like the first; last is marked."""
    size = PIECE * times
    buffer = stream.read(size).removeprefix(BOM)
    first = FIRST_KEY.match(buffer)
    cut = re.compile(rb"\}\s*,\s*(?=\{\s*" + (re.escape(first[1]) if first else b"") + rb")")
    buffer = buffer.replace(b"[", b" ", 1)
    while more := stream.read(size):
        end = max((m.end() for m in cut.finditer(buffer)), default=0)
        if end:
            yield buffer[:end], False
        buffer = buffer[end:] + more
    yield buffer, True


def line_pieces(stream: IO[bytes], *, times: int = 1) -> Iterator[tuple[bytes, bool]]:
    """Cut lines into pieces of whole lines; the last piece is marked."""
    buffer = b""
    while more := stream.read(PIECE * times):
        end = more.rfind(b"\n") + 1
        if end:
            yield buffer + more[:end], False
            buffer = more[end:]
        else:
            buffer += more
    yield buffer, True


def parse_piece(raw: bytes, *, last: bool) -> list[Parsed]:
    """All rows of a piece at once.

    Raises:
        orjson.JSONDecodeError: Where it holds an error, or was cut inside a row.
    """
    text = b"[" + (raw if last else raw.rstrip()[:-1] + b"]")
    rows = orjson.loads(text)
    repeated = _repeated_keys(text, rows)
    for i, fault in repeated.items():
        rows[i] = fault
    return list(zip(itertools.repeat(None), rows))


def fault_in(text: bytes, error: orjson.JSONDecodeError) -> Fault:
    """Say what is wrong with a line of JSON and at which column."""
    try:
        text.decode()
    except UnicodeDecodeError as bad:
        found = f"byte 0x{text[bad.start]:02x}"
        return Fault(f"not UTF-8: {found} (byte {bad.start + 1} of the line)", column=bad.start + 1)
    msg = error.msg.split(": line ")[0]
    near = error.doc[error.pos : error.pos + 12]
    if msg.startswith(UNFINISHED):
        if text.strip() == b"{":
            return Fault(
                "this object does not end on its line: indented JSON",
                "wanted one object a line; `jq -c . FILE` rewrites it so",
                error.colno,
            )
        return Fault("not JSON: the line breaks off", "was the file cut short?", error.colno)
    return Fault(f"not JSON: {msg}, found {near!r}", column=error.colno)


def _rescue(raw: bytes, line: int, *, last: bool) -> Iterator[Parsed]:
    """The members of a piece one by one, so that only the wrong ones are lost."""
    text = raw.rstrip()
    closed = text.endswith(b"]" if last else b",")
    body = (text[:-1] if closed else text).rstrip()
    comma = last and body.endswith(b",")
    body = body[:-1] if comma else body
    cuts = [(m.start() + 1, m.end()) for m in re.finditer(rb"\}\s*,\s*(?=\{)", body)]
    start = 0
    for end, following in [*cuts, (len(body), len(body))]:
        member = body[start:end]
        text = member.lstrip()
        at = line + body.count(b"\n", 0, end - len(text))
        value, offset = _member(text.rstrip())
        if isinstance(value, Fault) and value.code == UNFINISHED:
            if end != len(body):
                continue  # this cut was inside the member: take the next one to it
            value = value._replace(code="malformed")
        yield at + offset, value
        start = following
    if not closed and not isinstance(value, Fault):
        end_line = line + body.count(b"\n")
        yield end_line, Fault("the array is not closed: no ]", "was the file cut short?")
    if comma:
        yield line + body.count(b"\n"), Fault("a comma before the ]", "delete the last comma")


def _member(text: bytes) -> tuple[Any, int]:
    """One member of an array, or the Fault in it and how many lines further down that stands."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        fault = fault_in(text, error)
        code = UNFINISHED if error.msg.startswith(UNFINISHED) else fault.code
        return fault._replace(code=code), max(error.lineno - 1, 0)
    return _repeated_keys(text, [value]).get(0, value), 0


def _repeated_keys(text: bytes, rows: list[Any]) -> dict[int, Fault]:
    """Faults, by index, of rows in which a key stands twice (parsers keep the last, silently).

    An unescaped quote before a colon ends a key, so as many of them as keys means no key is lost;
    only where the numbers differ is the text read a second time, slowly.
    """
    keys = _count_keys(rows)
    quotes = text.count(b'":')
    if quotes == keys or quotes - text.count(b'\\":') == keys:
        return {}
    try:
        members = json.loads(text, object_pairs_hook=_Pairs, parse_int=float)
    except RecursionError:
        return {i: Fault("nested too deep to be checked") for i in range(len(rows))}
    found = enumerate(map(_first_repeated, members if type(members) is list else [members]))
    return {
        i: Fault(f"the key {key!r} stands twice", "keep one of them", code="duplicate_key")
        for i, key in found
        if key is not None
    }


class _Pairs(list[tuple[str, Any]]):
    """An object as its pairs, none lost."""


def _first_repeated(value: Any) -> str | None:
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, _Pairs):
            seen: set[str] = set()
            for key, _ in value:
                if key in seen:
                    return key
                seen.add(key)
            stack.extend(member for _, member in value)
        elif isinstance(value, list):
            stack.extend(value)
    return None


def _count_keys(rows: list[Any]) -> int:
    """Number of keys in all objects, nested ones too."""
    total, stack = 0, [rows]
    while stack:
        for value in stack.pop():
            kind = type(value)
            if kind is dict:
                total += len(value)
                if value:
                    stack.append(value.values())
            elif kind is list:
                stack.append(value)
    return total
