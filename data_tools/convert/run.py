"""Converts sources to JSON lines of one shape, in one process or several."""

import dataclasses
import io
import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import orjson

from alignment.errors import AlignError
from data_tools.convert.output import (
    Summary,
    check_output,
    dropped_path,
    named_for,
    written_rows,
    written_whole,
)
from data_tools.convert.repairs import Repairs
from data_tools.convert.writer import Conversion, RecordWriter
from data_tools.formats import Located, adapted_batches, by_name, examples, located
from data_tools.reading import (
    Batch,
    FileKind,
    Watch,
    array_pieces,
    is_hub_name,
    line_batches,
    line_pieces,
    look,
    newlines,
    numbered,
    open_plain,
    other_encoding,
    parse_piece,
    progress,
    split_of,
)


def convert(
    sources: list[str], output: Path, conversion: Conversion, *, repairs: Repairs | None = None
) -> list[Summary]:
    """Convert sources into one file, or one per split if they have several splits.

    Raises:
        DataError: If a row cannot be used, unless such rows are dropped.
        ConfigError: If the format is unknown, or the output is one of the sources.
    """
    files = [one for source in sources for one in located(source, conversion.columns)]
    parts: dict[str, list[Located]] = defaultdict(list)
    for one in files:
        parts[split_of(one.file)].append(one)
    if conversion.merge_splits or len(parts) == 1:
        return [_convert(files, output, conversion, repairs or Repairs())]
    return [
        _convert(members, named_for(output, split), conversion, repairs or Repairs())
        for split, members in sorted(parts.items())
    ]


def _convert(
    files: list[Located], output: Path, conversion: Conversion, repairs: Repairs
) -> Summary:
    """Write one output file and its list of dropped rows, in several processes if that works."""
    check_output(output, files)
    if conversion.num_proc > 1:
        try:
            return _written(files, output, conversion, repairs)
        except NotParallel:
            # start again in one process, which also reports the first error in the order of rows
            conversion = dataclasses.replace(conversion, num_proc=1)
            repairs.counts.clear()
    return _written(files, output, conversion, repairs)


def _written(
    files: list[Located], output: Path, conversion: Conversion, repairs: Repairs
) -> Summary:
    ledger = dropped_path(output)
    with (
        progress([one.file for one in files]) as watch,
        written_rows(output) as out,
        written_whole(ledger) as lost,
    ):
        writer = RecordWriter(Summary(output), conversion, out, lost)
        for file, columns in files:
            if other := other_encoding(file, conversion.encoding):
                writer.summary.encodings[str(file)] = other
            if conversion.num_proc > 1:
                convert_in_parallel(Located(file, columns), writer, repairs, watch)
            else:
                writer.take(
                    examples(
                        file,
                        format=conversion.format or None,
                        encoding=conversion.encoding,
                        columns=columns,
                        on_error=writer.unreadable,
                        repair=repairs if repairs else None,
                        watch=watch,
                    )
                )
        writer.finish()
    if not writer.summary.dropped:
        ledger.unlink()
    writer.summary.repaired = Counter(repairs.counts)
    return writer.summary


LARGER = 16
"""How much larger the pieces for workers are: each is sent through a pipe and back."""


class NotParallel(Exception):
    """A file that needs one process: it is not JSON, has rows that belong together, or an error."""


class Piece(NamedTuple):
    """Whole rows of a file as bytes, and the line on which they begin.

    The last piece of an array includes its bracket.
    """

    raw: bytes
    last: bool
    line: int


class Done(NamedTuple):
    """The output of a worker for one piece, and its counts."""

    out: bytes
    lost: bytes
    summary: Summary
    repairs: Repairs
    text_rows: int
    turn_rows: int


def convert_in_parallel(
    source: Located, writer: RecordWriter, repairs: Repairs, watch: Watch | None = None
) -> None:
    """Convert a file in as many processes as the conversion asks for.

    Rows keep their order and their numbers: a worker reports how many rows its piece has, receives
    the number of the first one, and only then makes the output.

    Raises:
        NotParallel: If it needs one process, or has bad data.
    """
    file, columns = source
    # columns of its own, from a list of data sets, would have to go to the workers
    if is_hub_name(file) or columns is not writer.conversion.columns:
        raise NotParallel
    kind, found = look(file, writer.conversion.encoding)
    if kind not in ("array", "lines"):
        raise NotParallel
    with ExitStack() as stack:
        stream = stack.enter_context(open_plain(file, watch, encoding=found.name))
        cut_into = array_pieces if kind == "array" else line_pieces
        cut = cut_into(stream, times=LARGER)
        pieces = _located(cut)
        # rows are numbered over the whole file, so each piece needs the count of those before it
        start = 0
        if not writer.shape:  # the first record decides the shape of all rows
            first = next(pieces)
            parsed = _parsed(first, kind)
            if parsed is None:
                raise NotParallel
            _worker_take(parsed, str(file), 0, writer, repairs)
            if not writer.summary.shape:  # there was no record
                raise NotParallel
            start = sum(len(batch.values) for batch in parsed)
        job = _Job(kind, str(file), writer.conversion, writer.shape, repairs)
        workers = [_started(job, stack) for _ in range(writer.conversion.num_proc)]
        for done in _in_order(pieces, workers, start):
            _merge(done, writer, repairs)


def _located(cut: Iterator[tuple[bytes, bool]]) -> Iterator[Piece]:
    """Yield pieces with the lines on which they begin."""
    line = 1
    for raw, last in cut:
        yield Piece(raw, last, line)
        line += newlines(raw)


class _Job(NamedTuple):
    """What is the same for all pieces of a file."""

    kind: FileKind
    source: str
    conversion: Conversion
    shape: str
    repairs: Repairs


def _in_order(pieces: Iterator[Piece], workers: list[Connection], start: int) -> Iterator[Done]:
    """Send one piece to each worker, then their row numbers; yields the results in order."""
    while True:
        # one piece per worker and round: a faster worker waits, but the order needs no buffer
        busy = []
        for worker, piece in zip(workers, pieces, strict=False):
            worker.send(piece)
            busy.append(worker)
        if not busy:
            return
        for worker in busy:
            count = worker.recv()
            if count is None:
                raise NotParallel
            worker.send(start)
            start += count
        for worker in busy:
            done = worker.recv()
            if done is None:
                raise NotParallel
            yield done


def _started(job: _Job, stack: ExitStack) -> Connection:
    """Start a worker process that ends with the stack."""
    ours, theirs = multiprocessing.Pipe()
    # fork would copy open output buffers, which both processes would then write
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(theirs, job), daemon=True
    )
    process.start()
    # else the worker would keep the other end open and never see that the pipe is closed
    theirs.close()
    stack.callback(process.join)
    stack.callback(process.terminate)
    stack.callback(ours.close)
    return ours


def _work(pipe: Connection, job: _Job) -> None:
    """Convert pieces in a worker process until the pipe closes."""
    while True:
        try:
            piece = pipe.recv()
        except EOFError:
            return
        parsed = _parsed(piece, job.kind)
        pipe.send(None if parsed is None else sum(len(batch.values) for batch in parsed))
        if parsed is not None:
            pipe.send(_done(parsed, pipe.recv(), job))


def _done(parsed: list[Batch], start: int, job: _Job) -> Done | None:
    """Return the output of a piece, or None if it has an error, which only one process reports."""
    repairs = Repairs(
        job.repairs.strip_sentinels, job.repairs.fix_mojibake, job.repairs.decode_backslash_n
    )
    out, lost, summary = io.BytesIO(), io.BytesIO(), Summary(Path())
    writer = RecordWriter(summary, job.conversion, out, lost)
    # no worker may decide the shape: its first record need not be the first of the file
    writer.settle(job.shape)
    try:
        _worker_take(parsed, job.source, start, writer, repairs)
    except (AlignError, NotParallel):
        return None
    # likes and dislikes of one prompt may be in different pieces
    if writer.waiting:
        return None
    summary.rows_out = writer.rows_out
    return Done(
        out.getvalue(), lost.getvalue(), summary, repairs, writer.text_rows, writer.turn_rows
    )


def _worker_take(
    parsed: list[Batch],
    source: str,
    start: int,
    writer: RecordWriter,
    repairs: Repairs,
) -> None:
    """Write the rows of a piece.

    Raises:
        NotParallel: If rows must be joined, since the cut may be between them.
    """
    columns = writer.conversion.columns
    forced = columns.adapter if columns else None
    if writer.conversion.format:
        forced = by_name(writer.conversion.format)
    rows = numbered(parsed, source, writer.unreadable, start=start)
    repair = repairs if repairs else None
    for found in adapted_batches(rows, forced=forced, columns=columns, repair=repair):
        if any(example.adapter and example.adapter.gather for example in found):
            raise NotParallel
        writer.take(found)


def _merge(done: Done, writer: RecordWriter, repairs: Repairs) -> None:
    writer.out.write(done.out)
    writer.lost.write(done.lost)
    writer.rows_out += done.summary.rows_out
    writer.text_rows += done.text_rows
    writer.turn_rows += done.turn_rows
    writer.summary.rows_in += done.summary.rows_in
    writer.summary.dropped += done.summary.dropped
    writer.summary.unused += done.summary.unused
    writer.summary.unanswered += done.summary.unanswered
    writer.summary.halved += done.summary.halved
    writer.summary.formats += done.summary.formats
    repairs.counts += done.repairs.counts


def _parsed(piece: Piece, kind: FileKind) -> list[Batch] | None:
    """Parse a piece; None if the cut is inside a row or the text is not JSON."""
    if kind == "lines":
        return list(line_batches(io.BytesIO(piece.raw), line=piece.line))
    try:
        return [parse_piece(piece.raw, last=piece.last, line=piece.line)]
    except orjson.JSONDecodeError:
        return None
