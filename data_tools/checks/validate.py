"""Runs all checks over whole sources; counts findings by source and code, and keeps examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_tools.checks import CHECKS, Finding, Where, failing
from data_tools.checks.lengths import LengthBias, Truncation
from data_tools.checks.records import cut_by_length, record_findings
from data_tools.checks.sets import SetChecks
from data_tools.checks.shortcuts import Shortcuts
from data_tools.checks.texts import redacted
from data_tools.formats import (
    HARD,
    Columns,
    Example,
    Pairing,
    Record,
    Unusable,
    examples,
    is_paired,
    located,
    pairs_of,
)
from data_tools.reading import (
    SLOW,
    Row,
    RowError,
    Watch,
    fingerprint,
    licences_of,
    other_encoding,
    progress,
)

if TYPE_CHECKING:
    from data_tools.rendering import Renderer

EXAMPLES = 3
ALL_PAIRS = Pairing("all-pairs", max_pairs=1000)
NAMES = 100


class Located(NamedTuple):
    """A finding and its row."""

    where: Where
    finding: Finding

    def as_json(self) -> dict[str, Any]:
        """Return place, code and what was found, as reports and lists of findings have it."""
        return {**self.where._asdict(), **self.finding._asdict()}


@dataclass
class Report:
    """What validation found.

    Attributes:
        rows: Rows that were read, by source.
        records: Pairs and other records that were checked, by source.
        counts: Records with a flaw, by source and code.
        rows_with: Rows with such a record, by source and code.
        encodings: The encodings of sources that are not UTF-8.
        not_compared: Rows beyond the number among which near repeats are looked for.
        examples: The first findings of each code.
        inputs: The sha256 and size of each file.
        bias: The shares of longer chosen answers, by source.
        shortcuts: The shares of refusals by side and all label shortcuts, by source.
        licences: The known licences, by source.
        unused: Rows that hold text in a column that nothing reads, by source and column.
    """

    rows: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows_with: Counter[tuple[str, str]] = field(default_factory=Counter)
    encodings: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[Located]] = field(default_factory=lambda: defaultdict(list))
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    bias: dict[str, dict[str, Any]] = field(default_factory=dict)
    shortcuts: dict[str, dict[str, Any]] = field(default_factory=dict)
    licences: dict[str, list[str]] = field(default_factory=dict)
    not_compared: int = 0
    _last: dict[tuple[str, str], int] = field(default_factory=dict)
    unused: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, located: Located) -> None:
        """Count a finding, and keep it if it is among the first of its code."""
        code, (source, row, *_) = located.finding.code, located.where
        self.counts[source, code] += 1
        # the records of a row come one after another
        if row and self._last.get((source, code)) != row:
            self._last[source, code] = row
            self.rows_with[source, code] += 1
        if len(self.examples[code]) < EXAMPLES:
            self.examples[code].append(located)

    @property
    def totals(self) -> Counter[str]:
        """The counts by code over all sources."""
        totals: Counter[str] = Counter()
        for (_, code), count in self.counts.items():
            totals[code] += count
        return totals

    def share(self, code: str) -> float:
        """Return the share of all rows, also of those without a record, that have a flaw."""
        found = sum(count for (_, name), count in self.rows_with.items() if name == code)
        return found / max(sum(self.rows.values()), 1)

    def failed(self, fail_on: Iterable[str]) -> list[str]:
        """Return the codes that fail the run; see `checks.failing`.

        Raises:
            ConfigError: If `fail_on` names neither a code nor a severity.
        """
        return failing(self.totals, fail_on)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON; personal data and secrets are masked."""
        return {
            "inputs": self.inputs,
            "rows": dict(self.rows),
            "records": dict(self.records),
            "encodings": self.encodings,
            "not_compared": self.not_compared,
            "length_bias": self.bias,
            "shortcuts": self.shortcuts,
            "licences": self.licences,
            "unused_columns": [
                {"source": source, "column": name, "rows": count}
                for (source, name), count in sorted(self.unused.items())
            ],
            "findings": [
                {
                    "code": code,
                    "severity": CHECKS[code].severity,
                    "source": source,
                    "count": count,
                    "rows": self.rows_with[source, code],
                    "meaning": CHECKS[code].meaning,
                }
                for (source, code), count in sorted(self.counts.items())
            ],
            "examples": {
                code: [one.as_json() for one in located]
                for code, located in sorted(self.examples.items())
            },
        }


def validate(  # noqa: PLR0913
    sources: Iterable[str | Path],
    *,
    format: str | None = None,
    encoding: str | None = None,
    columns: Columns | None = None,
    model: Renderer | None = None,
    max_length: int = 1024,
    pairing: Pairing = ALL_PAIRS,
    each: Callable[[Located], None] | None = None,
) -> Report:
    """Run all checks over the rows of all sources together.

    Args:
        sources: Files and folders; repeats and contradictions are found across all of them.
        format: The format of all rows; without it the format of each is detected.
        encoding: The encoding of all text files; without it that of each is detected.
        columns: Which columns hold which parts; None: those that the formats know.
        model: A tokenizer and template; adds the truncation checks.
        max_length: The length of the truncation checks, in tokens.
        pairing: Which pairs of a ranking are checked, and the least margin of a pair.
        each: Called with each finding.
    """
    report = Report()

    def add(where: Where, finding: Finding) -> None:
        located = Located(where, _safe(finding))
        report.add(located)
        if each:
            each(located)

    files = [one for source in sources for one in located(source, columns)]
    across = SetChecks()
    with progress([one.file for one in files], worth=SLOW) as watch:
        for file, its_columns in files:
            report.inputs[str(file)] = fingerprint(file)
            if other := other_encoding(file, encoding):
                report.encodings[str(file)] = other
            whole = _Whole(str(file), Truncation(model, max_length) if model else None)
            for example in _read(file, format, encoding, its_columns, report, add, watch):
                whole.note(example)
                if example.unused and example.more is None:
                    report.unused.update((str(file), name) for name in example.unused)
                    add(where_of(example.row), Finding("unused_column", ", ".join(example.unused)))
                if example.more is not None:
                    example.record = example.more
                for record in _records(example, pairing, add):
                    report.records[str(file)] += 1
                    _one(example, record, across, whole, add)
            whole.finish(report, add)
    report.not_compared = across.more
    for where, finding in across.finish():
        add(where, finding)
    return report


Add = Callable[[Where, Finding], None]


class _Whole:
    """Collects what only all records of a file show together."""

    def __init__(self, source: str, cut: Truncation | None) -> None:
        self.source, self.cut = source, cut
        self.bias, self.shortcuts = LengthBias(), Shortcuts()
        self.names: set[str] = set()

    def note(self, example: Example) -> None:
        """Keep the names by which a row may show its licence."""
        if len(self.names) < NAMES:
            named = example.row.data.get("source")
            self.names |= {named} if type(named) is str else set()
            self.names |= {example.adapter.name} if example.adapter else set()

    def add(
        self, where: Where, record: Record, data: dict[str, Any]
    ) -> list[tuple[Where, Finding]]:
        """Count a record; returns the findings of a batch of tokenised records when it is full."""
        if record.kind == "preference":
            self.bias.add(record)
            self.shortcuts.add(record, data)
        return self.cut.add(where, record) if self.cut and record.kind != "prompt" else []

    def finish(self, report: Report, add: Add) -> None:
        """Report the findings about the whole file."""
        # only known now, after the last record of the file
        together = [*self.shortcuts.findings()]
        if self.cut:
            for where, finding in self.cut.finish():
                add(where, finding)
            together += self.cut.findings()
        if biased := self.bias.finding():
            together.append(biased)
        licences = licences_of(self.source, sorted(self.names))
        together += [Finding("licence", "", str(one)) for one in licences if one.restricted]
        for finding in together:
            add(Where(self.source, 0), finding)
        report.bias[self.source] = self.bias.as_json()
        report.shortcuts[self.source] = self.shortcuts.as_json()
        report.licences[self.source] = [str(one) for one in licences]


def _one(example: Example, record: Record, across: SetChecks, whole: _Whole, add: Add) -> None:
    """Run all checks of one record; each code is reported once."""
    row = example.row
    where = where_of(row)
    codes = set()
    special = whole.cut.renderer.tokenizer.special_texts if whole.cut else ()
    for finding in (
        *record_findings(record, special=tuple(text for text in special if len(text) > 3)),
        *cut_by_length(row.data),
        *across.add(where, record),
    ):
        # a code is counted once per record, whatever the number of its turns
        if finding.code not in codes:
            codes.add(finding.code)
            add(where, finding)
    for place, finding in whole.add(where, record, row.data):
        add(place, finding)


def _read(
    file: Path,
    format: str | None,
    encoding: str | None,
    columns: Columns | None,
    report: Report,
    add: Add,
    watch: Watch | None,
) -> Iterator[Example]:
    """Read the examples of a file; rows that cannot be parsed become findings."""

    def unreadable(error: Exception) -> None:
        if isinstance(error, RowError):
            report.rows[error.source] += 1
            code = error.code if error.code in CHECKS else "schema"
            where = Where(error.source, error.row, error.line, error.column)
            add(where, Finding(code, "", error.reason))

    last = 0
    for example in examples(
        file, format=format, encoding=encoding, columns=columns, on_error=unreadable, watch=watch
    ):
        if example.row.number != last:
            last = example.row.number
            report.rows[example.row.source] += 1
        yield example


def _records(example: Example, pairing: Pairing, add: Add) -> list[Record]:
    """Return the records to check: the pairs of a ranking, or the record itself."""
    record = example.record
    if isinstance(record, Unusable):
        code = record.code
        # the codes of readers are finer than those of reports
        if code not in CHECKS:
            code = "schema" if code in HARD else "unusable"
        add(where_of(example.row), Finding(code, "", record.reason))
        return []
    if not is_paired(record, pairing):
        return [record]
    pairs, dropped = pairs_of(record, pairing)
    for why in dropped:
        add(where_of(example.row), Finding(why.code, "", why.reason))
    return pairs


def where_of(row: Row) -> Where:
    """Return the place of a row."""
    return Where(row.source, row.number, row.line)


def _safe(finding: Finding) -> Finding:
    return finding._replace(found=redacted(finding.found)[:80]) if finding.found else finding
