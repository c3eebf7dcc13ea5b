"""Writes records as rows of one shape, and lists every record that is not written."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from data_tools.convert.export import EXPORTS, NATURAL, accepted_by, unified
from data_tools.convert.output import Summary, json_line
from data_tools.formats import (
    HARD,
    Adapter,
    Columns,
    Example,
    Kind,
    Pairing,
    Record,
    Text,
    Unusable,
    digest,
    group_id,
    pairs_of,
    plain,
)
from data_tools.reading import Fault, Row, RowError, parse_json

STRAIGHT: frozenset[Kind] = frozenset({"text", "sft", "preference"})
"""Kinds of record that need no pairing: the quick way for nearly all rows of large files."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to make of the sources.

    Attributes:
        format: The format of all rows; empty to detect the format of each.
        columns: Which columns hold which parts; None: those that the formats know.
        to: A name in EXPORTS, or `auto` for the shape that keeps all of the first record. Under
            `auto`, a later record of which a part would be lost is an error.
        pairing: How ranked and scored answers become pairs.
        drop: Whether rows that cannot be used are dropped and counted, instead of ending the run.
        merge_splits: Whether train and test files of a source go to one output.
        num_proc: The number of processes; more than one pays for large JSON files.
        encoding: The encoding of all text files; None to detect that of each.
    """

    format: str = ""
    to: str = "auto"
    pairing: Pairing = field(default_factory=Pairing)
    drop: bool = False
    merge_splits: bool = False
    num_proc: int = 1
    encoding: str | None = None
    columns: Columns | None = None


class RecordWriter:
    """Writes the rows of examples to one output and counts them.

    Args:
        summary: Receives the counts.
        conversion: What to make of the examples.
        out: The rows.
        lost: A line for each row or pair that is not written, with its place and the reason.
    """

    def __init__(
        self, summary: Summary, conversion: Conversion, out: IO[bytes], lost: IO[bytes]
    ) -> None:
        self.summary, self.conversion, self.out, self.lost = summary, conversion, out, lost
        self.name = ""
        self.least_margin = conversion.pairing.min_margin
        self.rows_out = self.text_rows = self.turn_rows = 0
        self.waiting: dict[str, list[tuple[Row, Record]]] = defaultdict(list)
        self.shape = self.settled_by = ""
        self._straight: set[Kind] = set()
        if conversion.to != "auto":
            self.settle(conversion.to)

    def settle(self, shape: str) -> None:
        """Set the shape of all rows."""
        self.shape = self.summary.shape = shape
        self._make, self._kinds = EXPORTS[shape]
        asked = self.conversion.to != "auto"
        kinds = {kind for kind in STRAIGHT & self._kinds if asked or NATURAL[kind] == shape}
        self._straight = kinds - {"preference"} if self.least_margin > 0 else kinds

    def take(self, examples: Iterable[Example]) -> None:
        """Write the examples of a file, or of a part of it."""
        last, source, seen = 0, "", 0
        unused: Counter[tuple[str, ...]] = Counter()
        adapter: Adapter | None = None
        for example in examples:
            row, record = example.row, example.record
            if example.unused and (example.more is None or self.conversion.to == "prompts"):
                unused[example.unused] += 1
            # a row may give several records, but counts as one row
            if row.number != last:
                last = row.number
                if example.adapter is not adapter or row.source != source:
                    self._count(source, adapter, seen)
                    source, adapter, seen = row.source, example.adapter, 0
                    self.name = source.rsplit("/", 1)[-1]
                seen += 1
            # nearly all rows of large files take this branch: no pairing, and the shape is known
            if type(record) is Record and record.kind in self._straight and record.margin is None:
                self._write(row, record)
            else:
                self._example(row, record, example.more)
        for names, rows in unused.items():
            self.summary.unused.update(dict.fromkeys(names, rows))
        self._count(source, adapter, seen)

    def finish(self) -> None:
        """Write the pairs of likes and dislikes, and make all rows messages if some are."""
        for group in self.waiting.values():
            self._pair_labels(group)
        self.summary.rows_out = self.rows_out
        if self.text_rows and self.turn_rows:
            self._unify()

    def _count(self, source: str, adapter: Adapter | None, rows: int) -> None:
        self.summary.rows_in += rows
        if adapter and rows:
            self.summary.formats[source, adapter.name] += rows

    def _example(self, row: Row, record: Record | Unusable, more: Unusable | None) -> None:
        if isinstance(record, Unusable):
            self._drop(row, record.code, record.reason, record.remedy)
            return
        kind = record.kind
        # a row may be more than a prompt, unless the user asks for prompts
        if more is not None and self.conversion.to != "prompts":
            self._drop(row, more.code, more.reason, more.remedy)
            return
        # the first record decides the shape of the whole file
        if not self.shape:
            self.settle(NATURAL[kind])
            self.settled_by = self.name
        if NATURAL[kind] != self.shape and self.conversion.to == "auto":
            self._drop(row, "wrong_kind", *self._mixed(kind))
            return
        if kind == "ranked" or (
            kind == "preference" and (record.margin is not None or self.least_margin > 0)
        ):
            pairs, dropped = pairs_of(record, self.conversion.pairing)
            for why in dropped:
                self._drop(row, why.code, why.reason)
            for pair in pairs:
                self._record(row, pair)
        # likes and dislikes of one prompt may be far apart: they wait until all rows are read
        elif kind == "unpaired" and self.shape == "pairs":
            self.waiting[digest(plain(record.prompt))].append((row, record))
        else:
            self._record(row, record)

    def _record(self, row: Row, record: Record) -> None:
        kind = record.kind
        if kind not in self._kinds:
            accepted = ", ".join(sorted(accepted_by(self.shape)))
            reason = f"{kind} cannot be written as {self.shape!r}"
            remedy = f"--to {self.shape} accepts {accepted}; convert them separately"
            self._drop(row, "wrong_kind", reason, remedy)
            return
        self._write(row, record)

    def _write(self, row: Row, record: Record) -> None:
        """Write the rows of a record whose kind this shape accepts."""
        kind = record.kind
        if kind == "preference" and _equal(record.chosen, record.rejected):
            self._drop(row, "chosen_eq_rejected", "chosen and rejected are equal")
            return
        try:
            rows = self._make(record)
        except Unusable as why:
            self._drop(row, why.code, why.reason, why.remedy)
            return
        # counted apart: if a file has both, its text rows are rewritten as messages at the end
        if record.messages is None and type(record.prompt) is str:
            self.text_rows += 1
            group = digest(record.prompt)
        else:
            self.turn_rows += 1
            group = group_id(record)
        if kind == "preference" and self.shape == "sft":
            self.summary.halved += 1
        if kind != "prompt" and self.shape == "prompts":
            self.summary.unanswered += 1
        for made in rows:
            made["source"] = self.name
            made["source_row"] = row.number
            made["group_id"] = group
            self.out.write(json_line(made))
        self.rows_out += len(rows)

    def _mixed(self, kind: Kind) -> tuple[str, str]:
        """Return why a record of another kind than those before it is an error, and what to do."""
        first = next(one for one, shape in NATURAL.items() if shape == self.shape)
        both = [name for name in EXPORTS if {kind, first} <= accepted_by(name)]
        reason = f"{kind} among rows written as {self.shape!r}"
        if kind in self._kinds:
            reason += ", which would lose a part of it"
        before = f" ({self.settled_by})" if self.settled_by else ""
        choice = f", or choose what to keep with --to {'|'.join(both)}" if both else ""
        return reason, f"rows before were {first}{before}: convert the two separately{choice}"

    def _pair_labels(self, group: list[tuple[Row, Record]]) -> None:
        """Write each liked answer to a prompt against each disliked one, up to the limit."""
        liked = [(row, r) for row, r in group if r.label]
        disliked = [(row, r) for row, r in group if not r.label]
        if not liked or not disliked:
            for row, _ in group:
                self._drop(row, "one_sided", "no answer of the other label to this prompt")
            return
        both = list(itertools.product(liked, disliked))
        for (row, good), (_, bad) in both[: self.conversion.pairing.max_pairs]:
            pair = replace(
                good,
                kind="preference",
                chosen=good.completion,
                rejected=bad.completion,
                completion="",
                label=None,
            )
            self._record(row, pair)
        # each pair over the limit is listed, so that the counts add up
        for (row, _), _ in both[self.conversion.pairing.max_pairs :]:
            self._drop(row, "over_cap", "more pairs than --max-pairs for this prompt")

    def unreadable(self, error: Exception) -> None:
        """Count a row that could not be parsed, or raise its error to end the run."""
        if not self.conversion.drop or not isinstance(error, RowError):
            raise error
        self.summary.rows_in += 1
        self._lose(error)

    def _drop(self, row: Row, code: str, reason: str, remedy: str = "") -> None:
        # a row of the wrong kind is an error, a known defect of good data is only counted
        error = RowError.of(row, Fault(reason, remedy, code=code))
        if code in HARD and not self.conversion.drop:
            raise error
        self._lose(error)

    def _lose(self, error: RowError) -> None:
        self.summary.dropped[error.code] += 1
        self.lost.write(json_line(error.as_json()))

    def _unify(self) -> None:
        """Rewrite text rows as messages: a column of two types cannot be loaded as Arrow."""
        self.out.flush()
        path = Path(self.out.name)
        rewritten = path.with_name(path.name + ".unified")
        with path.open("rb") as rows, rewritten.open("wb") as again:
            for line in rows:
                again.write(json_line(unified(parse_json(line))))
        rewritten.replace(path)
        self.summary.unified = self.text_rows


def _equal(chosen: Text, rejected: Text) -> bool:
    """Whether two sides are equal except for white space around them."""
    if type(chosen) is not str or type(rejected) is not str:
        chosen, rejected = plain(chosen), plain(rejected)
    if chosen[:1].isalnum() and rejected[:1].isalnum() and chosen[:1] != rejected[:1]:
        return False
    return chosen == rejected or chosen.strip() == rejected.strip()
