"""Any sources to JSON lines of one shape, with every row that did not make it accounted for."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from alignment.errors import ConfigError, DataError
from data_tools.examples import Example, examples
from data_tools.export import EXPORTS, NATURAL, unified
from data_tools.formats import Record, Unusable
from data_tools.pairing import Pairing, pairs_of
from data_tools.reading import data_files
from data_tools.repairs import Repairs
from data_tools.rows import Fault, Row, RowError
from data_tools.summary import Summary, dropped_path
from data_tools.text import digest, plain
from data_tools.writing import json_line, written_whole

HARD = frozenset(
    {
        "malformed",
        "duplicate_key",
        "row_type",
        "unknown_format",
        "two_formats",
        "wrong_format",
        "wrong_kind",
        "wrong_type",
        "missing",
        "null",
        "role",
    }
)
"""Reasons that stop a conversion unless `--on-error drop`: the file is not what it seems.

All others are choices (a tie, a margin) or known defects of good sources (an empty answer): such
rows are dropped and counted either way.
"""
SPLIT = re.compile(r"(?:^|[-_.:])(train|test|validation|valid|dev|eval)(?:[-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to make of the sources.

    Attributes:
        format: The format all rows are in; empty to detect each row's.
        to: A name of EXPORTS, or `auto` for the shape that keeps all of the first record.
        pairing: How ranked and scored answers become pairs.
        drop: Whether rows that cannot be read are dropped and counted, rather than ending the run.
        merge_splits: Whether train and test files of a source go to one output.
    """

    format: str = ""
    to: str = "auto"
    pairing: Pairing = field(default_factory=Pairing)
    drop: bool = False
    merge_splits: bool = False


def convert(
    sources: list[str], output: Path, conversion: Conversion, *, repairs: Repairs | None = None
) -> list[Summary]:
    """Convert sources into one file, or one a split where they hold several splits.

    Raises:
        DataError: At the first row that is not what it should be, unless they are dropped.
        ConfigError: For an unknown format.
    """
    files = [file for source in sources for file in data_files(source)]
    parts: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        parts[split_of(file)].append(file)
    if conversion.merge_splits or len(parts) == 1:
        return [_convert(files, output, conversion, repairs or Repairs())]
    return [
        _convert(members, named_for(output, split), conversion, repairs or Repairs())
        for split, members in sorted(parts.items())
    ]


def _convert(files: list[Path], output: Path, conversion: Conversion, repairs: Repairs) -> Summary:
    """One output file, its list of dropped rows, and the count of both."""
    for file in files:
        if file.resolve() == output.resolve():
            raise ConfigError(f"-o {output}: this is one of the sources", "choose another name")
    ledger = dropped_path(output)
    with written_whole(output) as out, written_whole(ledger) as lost:
        writer = _Writer(Summary(output), conversion, out, lost)
        for file in files:
            writer.file(file, repairs)
        writer.finish()
    if not writer.summary.dropped:
        ledger.unlink()
    writer.summary.repaired = Counter(repairs.counts)
    return writer.summary


class _Writer:
    """Takes examples one by one, writes their rows, and keeps the count."""

    def __init__(
        self, summary: Summary, conversion: Conversion, out: IO[bytes], lost: IO[bytes]
    ) -> None:
        self.summary, self.conversion, self.out, self.lost = summary, conversion, out, lost
        self.name = ""
        self.text_rows = self.turn_rows = 0
        self.waiting: dict[str, list[tuple[Row, Record]]] = defaultdict(list)
        self.shape = summary.shape = "" if conversion.to == "auto" else conversion.to

    def file(self, file: Path, repairs: Repairs) -> None:
        """All rows of one file."""
        summary, last = self.summary, 0
        self.name = file.name
        for example in examples(
            file,
            format=self.conversion.format or None,
            on_error=self._unreadable,
            repair=repairs if repairs else None,
        ):
            if example.row.number != last:
                last = example.row.number
                summary.rows_in += 1
                if example.adapter:
                    summary.formats[example.row.source, example.adapter.name] += 1
            self._example(example)

    def finish(self) -> None:
        """Pair what had to wait for its counterpart, and make the rows of one shape."""
        for group in self.waiting.values():
            self._pair_labels(group)
        if self.text_rows and self.turn_rows:
            self._unify()

    def _example(self, example: Example) -> None:
        row, record = example.row, example.record
        if isinstance(record, Unusable):
            self._drop(row, record.code, record.reason, record.remedy)
            return
        shape = self.shape or self._settled(record)
        if (
            record.kind == "preference"
            and record.margin is None
            and not self.conversion.pairing.min_margin
        ):
            self._record(row, record)
        elif record.kind in ("ranked", "preference"):
            pairs, dropped = pairs_of(record, self.conversion.pairing)
            for why in dropped:
                self._drop(row, why.code, why.reason)
            for pair in pairs:
                self._record(row, pair)
        elif record.kind == "unpaired" and shape == "pairs":
            self.waiting[digest(plain(record.prompt))].append((row, record))
        else:
            self._record(row, record)

    def _record(self, row: Row, record: Record) -> None:
        make, kinds = EXPORTS[self.shape]
        if record.kind not in kinds:
            reason = f"{record.kind} cannot be written as {self.shape!r}"
            self._drop(row, "wrong_kind", reason, f"rows before were {self.shape}; convert apart")
            return
        if record.kind == "preference" and _equal(record):
            self._drop(row, "chosen_eq_rejected", "chosen and rejected are equal")
            return
        if record.messages is None and type(record.prompt) is str:
            self.text_rows += 1
        else:
            self.turn_rows += 1
        self._write(row, record, make)

    def _write(self, row: Row, record: Record, make: Callable[[Record], list[Any]]) -> None:
        group = group_id(record)
        for made in make(record):
            made["source"], made["source_row"], made["group_id"] = self.name, row.number, group
            self.out.write(json_line(made))
            self.summary.rows_out += 1

    def _settled(self, record: Record) -> str:
        """The shape that the first record asks for; all that follow must fit it."""
        self.shape = self.summary.shape = NATURAL[record.kind]
        return self.shape

    def _pair_labels(self, group: list[tuple[Row, Record]]) -> None:
        """Each liked answer to a prompt against each disliked one, capped."""
        liked = [(row, r) for row, r in group if r.label]
        disliked = [(row, r) for row, r in group if not r.label]
        if not liked or not disliked:
            for row, _ in group:
                self._drop(row, "one_sided", "no answer of the other label to this prompt")
            return
        both = list(itertools.product(liked, disliked))
        for (row, good), (_, bad) in both[: self.conversion.pairing.max_pairs]:
            pair = Record("preference", good.prompt, good.completion, bad.completion)
            self._record(row, pair)
        for (row, _), _ in both[self.conversion.pairing.max_pairs :]:
            self._drop(row, "over_cap", "more pairs than --max-pairs for this prompt")

    def _unreadable(self, error: DataError) -> None:
        if not self.conversion.drop or not isinstance(error, RowError):
            raise error
        self.summary.rows_in += 1
        self._lose(error.source, error.row, error.code, error.reason)

    def _drop(self, row: Row, code: str, reason: str, remedy: str = "") -> None:
        if code in HARD and not self.conversion.drop:
            raise RowError.of(row, Fault(reason, remedy, code=code))
        self._lose(row.source, row.number, code, reason)

    def _lose(self, source: str, number: int, code: str, reason: str) -> None:
        self.summary.dropped[code] += 1
        self.lost.write(
            json_line({"source": source, "row": number, "code": code, "reason": reason})
        )

    def _unify(self) -> None:
        """Rewrite text rows as messages: one file holds one shape, or no reader can type it."""
        self.out.flush()
        path = Path(self.out.name)
        rewritten = path.with_name(path.name + ".unified")
        with path.open("rb") as rows, rewritten.open("wb") as again:
            for line in rows:
                again.write(json_line(unified(orjson.loads(line))))
        rewritten.replace(path)
        self.summary.unified = self.text_rows


def group_id(record: Record) -> str:
    """What rows on one prompt share: the hash of the prompt as it is written."""
    if record.messages is not None:
        asked = [turn for turn in record.messages if turn["role"] != "assistant"]
        return digest(plain(asked))
    return digest(plain(record.prompt))


def _equal(record: Record) -> bool:
    """Whether nothing but outer space tells the two sides apart."""
    chosen, rejected = plain(record.chosen), plain(record.rejected)
    return chosen == rejected or chosen.strip() == rejected.strip()


def split_of(file: Path) -> str:
    """The split that a file's name speaks of, or nothing."""
    found = SPLIT.search(file.name.split(".parquet")[0].split(".json")[0].split(".csv")[0])
    return found[1].lower() if found else ""


def named_for(output: Path, split: str) -> Path:
    """The output for one split: `pairs.train.jsonl`."""
    stem = output.name.removesuffix(".jsonl")
    return output.with_name(f"{stem}.{split}.jsonl" if split else output.name)
