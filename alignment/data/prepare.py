"""The one pass over training data: read, hash, adapt, render, tokenise and write as Arrow.

Everything that training, the counts before it and the preflight need of a row is in the result,
which a second run and the other processes map from disk. Memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

import data_tools
from alignment.data.arrow import FILE, LINE, PlacedRow, RowsWriter, few_collections, read_column
from alignment.data.cache import (
    ROWS,
    Entry,
    find_entry,
    keep_entry,
    new_entry,
    only_writer,
    remember_digest,
)
from alignment.data.columns import Encoded, Limits, encode
from alignment.data.sources import (
    digest_of,
    digest_source,
    files_of,
    hub_digest,
    lasting,
    located_files,
    state_of,
)
from alignment.errors import DataError
from alignment.runs import Source
from data_tools.formats import Unusable, parse_columns, prompt_key
from data_tools.reading import UNORDERED, UTF_8, Fault, RowError, data_files, look, place, progress
from data_tools.rendering import Renderer, Spoken, count_roles
from data_tools.shapes import Served, serve

if TYPE_CHECKING:
    from alignment.registry import Stage

_BATCH = 256
#: Batches that wait for the tokenizer while the next ones are read and rendered.
_AHEAD = 3
#: How many bad rows are named one by one; the others are counted.
_NAMED_ROWS = 5
#: Bytes from which the pass takes long enough to show its progress.
_LONG = 5_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that decides what rows become; the key of the cache."""

    stage: Stage
    renderer: Renderer
    limits: Limits
    format: str | None = None
    columns: Mapping[str, Any] | str | None = None
    drops_bad_rows: bool = False
    encoding: str | None = None

    @property
    def key(self) -> str:
        """A digest of all but the data."""
        facts = {
            # else rows that an older version rendered would be trained on without notice
            "code": _code_digest(),
            "kind": self.stage.kind,
            "splits_prompt": self.stage.splits_prompt,
            "tokenizer": self.renderer.tokenizer.key,
            "as_chat": self.renderer.as_chat,
            "loss_on": self.renderer.loss_on,
            "variables": self.renderer.variables,
            "limits": asdict(self.limits),
            "format": self.format,
            "columns": self.columns,
            "encoding": self.encoding,
            "drops_bad_rows": self.drops_bad_rows,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


@cache
def _code_digest() -> str:
    """A digest of the code that decides what rows become: another version prepares them again."""
    folders = (Path(__file__).parent, Path(data_tools.__file__).parent)
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rows of one role, on disk.

    Attributes:
        entry: Where they are.
        sources: The data that they come from, with digests and counts.
        tokens: Tokens by the role that wrote them, before any cut.
        learned: Tokens that carry loss, before any cut.
        dropped: The first bad rows that were left out, as messages.
        encodings: The encodings of files that are not UTF-8, by file.
        files: The files that the rows come from.
    """

    entry: Entry
    sources: tuple[Source, ...]
    tokens: Mapping[str, int]
    learned: int
    dropped: tuple[str, ...]
    encodings: Mapping[str, str]
    files: tuple[str, ...]

    def place(self, row: int) -> str:
        """Where a row comes from, as `file:line`; rows are counted from 0."""
        file = self.files[int(read_column(self.entry.rows, FILE)[row])]
        line = int(read_column(self.entry.rows, LINE)[row])
        return place(file, -line, None if line < 0 else line)


def prepare(paths: Sequence[str], request: Request) -> Prepared:
    """Return the prepared rows of some data, from the cache if they are there.

    Only one process of a machine writes; the others wait for it and map the result.

    Raises:
        DataError: a file or row cannot be used and bad rows are not dropped, or no row is left.
        ConfigError: the cache folder cannot be written.
    """
    key = request.key
    with only_writer(key):
        found = _find(key, paths)
        entry = found if found is not None else _write(key, paths, request)
    about = entry.about
    # an entry is found by content too: its files may have had other names
    names = dict(zip(about["files"], _names(paths), strict=True))
    return Prepared(
        entry,
        tuple(
            Source(path, one["digest"], one["rows"], one["dropped"], unused=one["unused"])
            for path, one in zip(paths, about["sources"], strict=True)
        ),
        about["tokens"],
        about["learned"],
        tuple(f"{names[file]}{message}" for file, message in about["named"]),
        {names[file]: encoding for file, encoding in about["encodings"].items()},
        tuple(names.values()),
    )


def _names(paths: Sequence[str]) -> list[str]:
    """The files of some sources, and the splits of hub data sets."""
    located = [one.file for path in paths for one in located_files(path)]
    return [str(file) for one in located for file in data_files(one)]


def sample_source(path: str, request: Request, count: int) -> list[Encoded]:
    """The first usable rows of a source, as they would be prepared; nothing is kept on disk.

    Raises:
        DataError: a row cannot be used and bad rows are not dropped, or there is none.
    """
    batches = _Reading(path, request).batches()
    return [one.encoded for one in islice(chain.from_iterable(batches), count)]


def _find(key: str, paths: Sequence[str]) -> Entry | None:
    """An entry for the same files, known by their size and times, else by their content."""
    states = [state_of(path) for path in paths]

    def is_same(about: dict[str, Any]) -> bool:
        return [one["state"] for one in about["sources"]] == states

    def has_same_content(about: dict[str, Any]) -> bool:
        return [one["digest"] for one in about["sources"]] == digests

    entry = find_entry(key, is_same)
    if entry is not None:
        return entry
    if find_entry(key, lambda _: True) is None:  # nothing to compare with: do not read twice
        return None
    digests = [digest_source(path) for path in paths]
    return find_entry(key, has_same_content)


def _write(key: str, paths: Sequence[str], request: Request) -> Entry:
    states = [state_of(path) for path in paths]
    kept = [lasting(state) for state in states]
    by_role: Counter[str] = Counter()
    learned = 0
    with new_entry(key) as folder, few_collections():
        readings = [_Reading(path, request) for path in paths]
        files = _names(paths)
        with RowsWriter(folder / ROWS, files) as writer:
            for reading in readings:
                for batch in reading.batches():
                    writer.write(batch)
                    roles, carrying = count_roles(s for one in batch for s in one.encoded.sides)
                    by_role.update(roles)
                    learned += carrying
        # digest and rows may be of two versions of the file
        if states != [state_of(path) for path in paths]:
            raise DataError(f"{', '.join(paths)}: changed while it was read", "start again")
        about: dict[str, Any] = {
            "sources": [
                {
                    "path": one.path,
                    "digest": one.digest(),
                    "state": state,
                    **one.counts(),
                    "unused": dict(one.unused),
                }
                for one, state in zip(readings, kept, strict=True)
            ],
            "rows": writer.rows,
            "files": files,
            "encodings": {file: name for one in readings for file, name in one.encodings.items()},
            "tokens": dict(by_role),
            "learned": learned,
            "named": [named for one in readings for named in one.named][:_NAMED_ROWS],
        }
        digests = "\n".join(one["digest"] for one in about["sources"])
        name = f"{key}-{hashlib.sha256(digests.encode()).hexdigest()[:16]}"
        for one in about["sources"]:
            remember_digest(one["state"], one["digest"])
        return keep_entry(folder, name, about)


class _Reading:
    """One source on its way through the pass: its digest, its rows and its bad rows."""

    def __init__(self, path: str, request: Request) -> None:
        self.path, self.request = path, request
        self.rows = self.dropped = 0
        self.unused: Counter[str] = Counter()
        given = request.columns
        self._columns = parse_columns(given, format=request.format) if given else None
        self.named: list[tuple[str, str]] = []
        self._file = path
        self.encodings: dict[str, str] = {}
        self._digests: list[str] = []

    def counts(self) -> dict[str, int]:
        """Rows that are used, and rows that were left out as unusable."""
        return {"rows": self.rows, "dropped": self.dropped}

    def digest(self) -> str:
        """The digest of the source, as `digest_source` gives it."""
        return digest_of(self.path, self._digests) if self._digests else hub_digest(self.path)

    def batches(self) -> Iterator[list[PlacedRow]]:
        """Encoded rows with the hash of their prompts and their places.

        Reading and rendering the next rows goes on while the tokenizer, which needs no interpreter,
        works on the last ones.
        """
        waiting: deque[tuple[list[Served], Future[list[Any]], list[int]]] = deque()
        # one thread finds the places of tokens while the tokenizer works for the other
        with ThreadPoolExecutor(2) as pool:
            rendered = self._rendered()
            while batch := list(islice(rendered, _BATCH)):
                spoken = [one for _, sides in batch for one in sides]
                future = pool.submit(self.request.renderer.encode, spoken)
                sizes = [len(sides) for _, sides in batch]
                waiting.append(([served for served, _ in batch], future, sizes))
                if len(waiting) > _AHEAD:
                    yield self._encoded(*waiting.popleft())
            while waiting:
                yield self._encoded(*waiting.popleft())
        if self.rows == 0:
            of = f": {self.dropped} of {self.dropped} rows were dropped" if self.dropped else ""
            raise DataError(
                f"{self.path}: no row left to learn from{of}",
                f"the first of them: {''.join(self.named[0])}"
                if self.named
                else "see `align data validate`",
            )

    def _rendered(self) -> Iterator[tuple[Served, list[Spoken]]]:
        renderer = self.request.renderer
        for served in self._served():
            if names := (*served.unused, *renderer.ignored(served.record)):
                self.unused.update(names)
            try:
                yield (
                    Served(renderer.wrapped(served.record), served.row),
                    list(renderer.sequences(served.record).values()),
                )
            except Unusable as error:
                self._drop(_row_error(served, error))

    def _served(self) -> Iterator[Served]:
        """The records of the source; every byte of its files goes through a digest too."""
        files = files_of(self.path)
        with progress(files, worth=_LONG) as bar:
            for file, columns in located_files(self.path, self._columns):
                self._file = str(file)
                digest = hashlib.sha256()
                seen = 0

                def watch(read: memoryview) -> None:
                    nonlocal seen
                    digest.update(read)  # noqa: B023 - the generator is used up in this turn
                    seen += len(read)
                    if bar:
                        bar(read)

                yield from serve(
                    file,
                    kind=self.request.stage.kind,
                    format=self.request.format,
                    columns=columns,
                    encoding=self.request.encoding,
                    on_error=self._drop,
                    watch=watch,
                )
                if files:
                    kind, encoding = look(file, self.request.encoding)
                    if encoding != UTF_8:
                        self.encodings[str(file)] = str(encoding)
                    # tables are read column by column, and an early stop leaves bytes unread
                    in_order = kind not in UNORDERED and seen == file.stat().st_size
                    found = digest.hexdigest() if in_order else digest_source(str(file))
                    self._digests.append(found)

    def _encoded(
        self, rows: list[Served], future: Future[list[Any]], sizes: list[int]
    ) -> list[PlacedRow]:
        tokens = iter(future.result())
        made = []
        for served, size in zip(rows, sizes, strict=True):
            sides = list(islice(tokens, size))
            try:
                encoded = encode(self.request.stage, served, sides, self.request.limits)
            except Unusable as error:
                self._drop(_row_error(served, error))
                continue
            except RecursionError:
                why = Unusable("wrong_type", "a column is nested too deep", "delete it")
                self._drop(_row_error(served, why))
                continue
            group = xxhash.xxh64_intdigest(prompt_key(served.record).encode())
            line = served.row.line
            at = -served.row.number if line is None else line
            made.append(PlacedRow(encoded, group, served.row.source, at))
        self.rows += len(made)
        return made

    def _drop(self, error: DataError) -> None:
        if not self.request.drops_bad_rows:
            remedy = error.remedy or "fix that row, or leave such rows out: --on_bad_row drop"
            # the option of the other commands, as the key of a stage
            remedy = remedy.replace("--format ", "--data_format ")
            raise DataError(error.message, remedy) from None
        self.dropped += 1
        if len(self.named) < _NAMED_ROWS:
            self.named.append((self._file, error.message.removeprefix(self._file)))


def _row_error(served: Served, why: Unusable) -> RowError:
    return RowError.of(served.row, Fault(why.reason, why.remedy, code=why.code))


def described_drops(prepared: Prepared) -> Iterable[str]:
    """One line per named bad row, and one per source with their number; encodings first."""
    for file, encoding in prepared.encodings.items():
        yield f"encoding: {encoding} of {file}"
    yield from (f"dropped: {message}" for message in prepared.dropped)
    for source in prepared.sources:
        if source.dropped:
            total = (source.rows or 0) + source.dropped
            yield f"dropped {source.dropped} of {total} rows of {source.path}"


def described_unused(prepared: Prepared) -> Iterable[str]:
    """One line per source and column with text that nothing reads."""
    for source in prepared.sources:
        for name, rows in sorted(source.unused.items()):
            yield f"not used: {name!r}, in {rows:,} rows of {source.path}"
