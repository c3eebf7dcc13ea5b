"""Reads JSON rows in pieces of constant memory: one array of objects, or one object per line.

A large array is cut at `}` `,` `{"first key"`, and the parser proves that the cut is right: text
that was cut inside a string or a nested list does not parse when one `]` is added, because what
opened before the cut is still open. orjson parses a whole piece at once. That is as fast as a
parser gets, and unlike an event parser it knows the line and column of an error.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import orjson

from data_tools.reading.json_keys import KEY_END, TOO_DEEP, repeated_keys
from data_tools.reading.rows import LARGEST_ROW, NAME_ENCODING, Fault, Parsed


class MemberLines:
    """The lines of the members of a piece of an array, found when one of them is asked for.

    Args:
        raw: The piece, which begins with white space or a member.
        line: The line on which the piece begins.

    Attributes:
        first: The number of the first row of the piece.
    """

    def __init__(self, raw: bytes, line: int) -> None:
        self._raw, self._line = raw, line
        self._lines: list[int] = []
        self.first = 1

    def of(self, number: int) -> int | None:
        """Return the line on which a row of the piece starts."""
        if not self._lines:
            self._lines = list(self._found())
        at = number - self.first
        return self._lines[at] if at < len(self._lines) else None

    def _found(self) -> Iterator[int]:
        text = self._raw.decode("utf-8", "surrogateescape")
        decode = json.JSONDecoder(strict=False).raw_decode
        line, seen = self._line, 0
        at = NO_VALUE.match(text).end()  # type: ignore[union-attr]  # it matches anything
        while at < len(text) and text[at] != "]":
            line, seen = line + text.count("\n", seen, at), at
            yield line
            try:
                at = decode(text, at)[1]
            except (ValueError, RecursionError):
                return
            at = NO_VALUE.match(text, at).end()  # type: ignore[union-attr]


class Batch(NamedTuple):
    """Rows that were parsed together.

    Attributes:
        lines: The line number of each row, or None; may be longer than `values`, or find lines
            when they are asked for.
        values: Each row, or its Fault.
    """

    lines: Iterable[int | None] | MemberLines
    values: list[Any]

    @classmethod
    def of(cls, parsed: Iterable[Parsed]) -> Batch:
        """Make a batch of rows that were parsed one by one."""
        pairs = list(parsed)
        return cls([line for line, _ in pairs], [value for _, value in pairs])


NO_VALUE = re.compile(r"[\s,]*")
PIECE = 1 << 16
"""Bytes parsed at once. More would leave the CPU cache before their rows are used."""
UNFINISHED = "unexpected end of data"
REACH = 256
"""Bytes searched backwards for the end of one member before the first key of the next."""
FIRST_KEY = re.compile(rb'\s*\[\s*\{\s*("(?:[^"\\]|\\.)*")')
BEFORE_KEY = re.compile(rb"\}\s*,\s*(?=\{\s*\Z)")
BEFORE_MEMBER = re.compile(rb"\}\s*,\s*\Z")
BOM = b"\xef\xbb\xbf"
COMMENTS = "remove such lines: grep -v '^ *//' FILE > rows.jsonl"
ZEROS = bytes.maketrans(b"123456789", b"000000000")
LONG = b"0" * 19
"""An integer of fewer digits fits into 64 bits."""
EXACT_TYPES = frozenset({str, int, bool, type(None)})
LONGEST_READ = 1 << 25
FAR = 64
"""Pieces without a row that begins with the first key, after which any row will do."""


def line_batches(stream: IO[bytes], *, line: int = 1) -> Iterator[Batch]:
    """Read one row per line; blank lines are skipped, a BOM and CRLF are accepted.

    Args:
        stream: The text.
        line: The number of its first line.
    """
    for raw, _ in line_pieces(stream):
        if line == 1:
            raw = raw.removeprefix(BOM)
        lines = raw.split(b"\n")
        if not lines[-1]:  # after the end of the last line
            lines.pop()
        try:
            values = [orjson.loads(text) for text in lines]
            if _any_inexact(values, lines):
                values = [_reparsed(text) for text in lines]
        except orjson.JSONDecodeError:  # one of them is blank or wrong
            numbered = enumerate(lines, start=line)
            yield Batch.of((at, _parse_line(text)) for at, text in numbered if text.strip())
        else:
            yield Batch(itertools.count(line), list(map(_without_repeated_keys, lines, values)))
        line += len(lines)


def _parse_line(text: bytes) -> Any:
    """Parse one line; returns its value or its Fault."""
    try:
        value = parse_json(text)
    except orjson.JSONDecodeError as error:
        return fault_in(text, error)
    return _without_repeated_keys(text, value)


def parse_json(text: bytes) -> Any:
    """Parse one JSON text; unlike with orjson alone, integers of any length stay exact.

    Raises:
        orjson.JSONDecodeError: If it is not JSON. NaN, Infinity and lone surrogates are not.
    """
    value = orjson.loads(text)
    return _reparsed(text) if _any_inexact([value], [text]) else value


def _reparsed(text: bytes) -> Any:
    """Parse text again that orjson has accepted, now with exact integers."""
    try:
        return json.loads(text)
    except RecursionError:
        return TOO_DEEP


def _any_inexact(rows: list[Any], texts: Sequence[bytes]) -> bool:
    """Whether orjson may have rounded an integer: it reads those beyond 64 bits as floats.

    The types of the values answer for most rows (1 % of the time of a conversion), and a search
    for long runs of digits for nearly all others (6 %). Only then each value is looked at.
    """
    if set(map(type, rows)) == {dict}:
        values = itertools.chain.from_iterable(map(dict.values, rows))
        if EXACT_TYPES.issuperset(map(type, values)):
            return False
    return LONG in b"".join(texts).translate(ZEROS) and _any_large_float(rows)


def _any_large_float(rows: list[Any]) -> bool:
    stack: list[Iterable[Any]] = [rows]
    while stack:
        for value in stack.pop():
            if type(value) is float:
                if abs(value) >= 2**63:
                    return True
            elif type(value) is dict:
                stack.append(value.values())
            elif type(value) is list:
                stack.append(value)
    return False


def _without_repeated_keys(text: bytes, value: Any) -> Any:
    """Return the value of one line, or a Fault if it has a key twice."""
    if type(value) is not dict or len(KEY_END.findall(text)) == len(value):
        return value
    return repeated_keys(text, [value]).get(0, value)


def array_batches(stream: IO[bytes]) -> Iterator[Batch]:
    """Read the members of one large array; a bad one becomes a Fault with its line."""
    line, before, pending = 1, b"", b""
    for raw, last in array_pieces(stream):
        pending = pending + raw if pending else raw
        _check_size(pending)
        try:
            yield parse_piece(pending, last=last, line=line)
        except orjson.JSONDecodeError as error:
            if not last and error.msg.startswith(UNFINISHED):
                continue  # the cut was inside a row: add the next piece
            yield Batch.of(_rescue(before + pending, line, last=last))
        line += newlines(pending)
        # so that columns count from the start of a line, also if a piece begins inside it
        before = b" " * len(pending[pending.rfind(b"\n") + 1 :])
        pending = b""


def newlines(raw: bytes) -> int:
    """Count the line ends: `find` jumps from one to the next, `count` looks at every byte."""
    count, at = 0, raw.find(b"\n")
    while at >= 0:
        count += 1
        at = raw.find(b"\n", at + 1)
    return count


def array_pieces(stream: IO[bytes], *, times: int = 1) -> Iterator[tuple[bytes, bool]]:
    """Cut an array, without its `[`, before members that begin with the key of the first one.

    If a member is larger than a piece, each read doubles what is held, so that no part of it is
    searched or copied more than a few times.

    Args:
        stream: The text of the array.
        times: The size of a piece in units of PIECE.

    Yields:
        The bytes of a piece, and whether it is the last one.
    """
    size = PIECE * times
    buffer = stream.read(size).removeprefix(BOM)
    first = FIRST_KEY.match(buffer)
    # rows of a file nearly always begin with the same key, which is rarer in texts than `{`
    key, before = (first[1], BEFORE_KEY) if first else (b"{", BEFORE_MEMBER)
    buffer = buffer.replace(b"[", b" ", 1)
    seen = 0
    while more := stream.read(min(max(size, len(buffer)), LONGEST_READ)):
        if len(buffer) >= size * FAR and key != b"{":
            # the rows begin with different keys
            key, before, seen = b"{", BEFORE_MEMBER, 0
        end = _last_cut(buffer, key, before, seen)
        if end:
            yield buffer[:end], False
        else:
            _check_size(buffer)
        # what was searched before is not searched again
        seen = max(len(buffer) - end - REACH - len(key), 0)
        buffer = buffer[end:] + more
    yield buffer, True


def _last_cut(buffer: bytes, key: bytes, before: re.Pattern[bytes], start: int) -> int:
    """Return where the last member begins that is known so far; 0 if none begins after `start`."""
    at = len(buffer)
    while (at := buffer.rfind(key, start, at)) >= 0:
        if found := before.search(buffer, max(at - REACH, 0), at):
            return found.end()
    return 0


def line_pieces(stream: IO[bytes], *, times: int = 1) -> Iterator[tuple[bytes, bool]]:
    """Cut a file into pieces of whole lines; yields as `array_pieces`."""
    buffer = b""
    while more := stream.read(min(max(PIECE * times, len(buffer)), LONGEST_READ)):
        end = more.rfind(b"\n") + 1
        if end:
            yield buffer + more[:end], False
            buffer = more[end:]
        else:
            buffer += more
            _check_size(buffer)
    yield buffer, True


def _check_size(held: bytes) -> None:
    """See that a row without an end does not fill the memory.

    Raises:
        OSError: If it is larger than any row may be.
    """
    if len(held) > LARGEST_ROW:
        raise OSError(
            f"no end of a row within {LARGEST_ROW >> 20} MiB (of an array, "
            "`jq -c '.[]' FILE > rows.jsonl` writes one row per line)"
        )


def parse_piece(raw: bytes, *, last: bool, line: int) -> Batch:
    """Parse all rows of a piece, which begins on a line, at once.

    Raises:
        orjson.JSONDecodeError: If it has an error, or was cut inside a row.
    """
    text = b"[" + raw if last else b"".join((b"[", memoryview(raw)[: raw.rindex(b",")], b"]"))
    rows = orjson.loads(text)
    if _any_inexact(rows, [text]):
        exact = _reparsed(text)
        rows = [exact] * len(rows) if isinstance(exact, Fault) else exact
    for i, fault in repeated_keys(text, rows).items():
        rows[i] = fault
    return Batch(MemberLines(raw, line), rows)


def fault_in(text: bytes, error: orjson.JSONDecodeError) -> Fault:
    """Say what is wrong with a line of JSON, and at which column."""
    # orjson reports bad UTF-8 without its position
    try:
        text.decode()
    except UnicodeDecodeError as bad:
        found = f"byte 0x{text[bad.start]:02x}"
        reason = f"not UTF-8: {found} (byte {bad.start + 1} of the line)"
        return Fault(reason, NAME_ENCODING, bad.start + 1)
    msg = error.msg.split(": line ")[0]
    near = error.doc[error.pos : error.pos + 12]
    if text.lstrip().startswith((b"//", b"/*")):
        return Fault("a comment, which JSON does not have", COMMENTS, error.colno)
    if msg.startswith(UNFINISHED):
        return Fault("not JSON: the line breaks off", "was the file cut short?", error.colno)
    return Fault(f"not JSON: {msg}, found {near!r}", column=error.colno)


def _rescue(raw: bytes, line: int, *, last: bool) -> Iterator[Parsed]:
    """Parse the members of a piece one by one, so that only the bad ones are lost."""
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
        begin = end - len(text)
        at = line + body.count(b"\n", 0, begin)
        value, offset = parse_member(text.rstrip())
        if isinstance(value, Fault) and value.column and not offset:
            value = value._replace(column=value.column + _column(body, begin) - 1)
        if isinstance(value, Fault) and value.code == UNFINISHED:
            if end != len(body):
                continue  # this cut was inside the member: try the next one
            value = value._replace(code="malformed")
        yield at + offset, value
        start = following
    if not closed and not isinstance(value, Fault):
        end_line = line + body.count(b"\n")
        column = _column(body, len(body))
        yield end_line, Fault("the array is not closed: no ]", "was the file cut short?", column)
    if comma:
        fault = Fault("a comma before the ]", "delete the last comma", _column(body, len(body)))
        yield line + body.count(b"\n"), fault


def _column(text: bytes, at: int) -> int:
    """Return the column of a place in characters, from 1."""
    return len(text[text.rfind(b"\n", 0, at) + 1 : at].decode("utf-8", "replace")) + 1


def parse_member(text: bytes) -> tuple[Any, int]:
    """Parse one member; returns it or its Fault, and how many lines further down the Fault is."""
    try:
        value = parse_json(text)
    except orjson.JSONDecodeError as error:
        fault = fault_in(text, error)
        code = UNFINISHED if error.msg.startswith(UNFINISHED) else fault.code
        return fault._replace(code=code), max(error.lineno - 1, 0)
    return repeated_keys(text, [value]).get(0, value), 0
