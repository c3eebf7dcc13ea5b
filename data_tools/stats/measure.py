"""Measures a data set: lengths, margins, languages, repeats, and what max_length cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.checks import Where
from data_tools.checks.language import language
from data_tools.checks.lengths import LengthBias, Truncation
from data_tools.checks.shortcuts import Shortcuts
from data_tools.formats import (
    Columns,
    Pairing,
    Record,
    Unusable,
    answer_key,
    contents,
    examples,
    is_paired,
    located,
    pairs_of,
    plain,
    prompt_key,
)
from data_tools.reading import SLOW, Watch, licences_of, progress

if TYPE_CHECKING:
    from data_tools.rendering import Renderer

NAMES = 100
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


@dataclass
class SourceStats:
    """Counts over one file.

    Attributes:
        source: The name of the file.
        rows, unusable: Rows that were read, and those that give no record.
        dropped: Pairs that the pairing drops, by code.
        kinds: Records by kind.
        lengths: The lengths of each part in characters.
        languages: Texts by language, for each part.
        margins: The margins of pairs that have one.
        bias: Whether chosen is longer, in characters.
        shortcuts: Refusals by side, and label shortcuts.
        names: Formats and sources of the rows, by which the licence may be known.
        truncation: What max_length cuts, if there is a tokenizer.
        prompts: Records by prompt.
        pairs: Pairs by prompt and answers.
    """

    source: str
    rows: int = 0
    unusable: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    languages: dict[str, Counter[str]] = field(default_factory=dict)
    margins: list[float] = field(default_factory=list)
    bias: LengthBias = field(default_factory=LengthBias)
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    names: set[str] = field(default_factory=set)
    truncation: Truncation | None = None
    prompts: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record, data: Mapping[str, Any]) -> None:
        """Count a record and its row."""
        self.kinds[record.kind] += 1
        prompt = prompt_key(record)
        self.prompts[prompt] += 1
        self._part("prompt", plain(record.prompt) if record.messages is None else "")
        if record.kind == "preference":
            chosen, rejected = plain(record.chosen), plain(record.rejected)
            self.pairs[prompt + answer_key(chosen) + answer_key(rejected)] += 1
            self._part("chosen", chosen)
            self._part("rejected", rejected)
            self.bias.add(record)
            self.shortcuts.add(record, data)
            if record.margin is not None:
                self.margins.append(record.margin)
        else:
            spoken = [t for t in record.messages or [] if t["role"] == "assistant"]
            self._part("answer", plain(record.completion) or "\n".join(contents(spoken)))
            self._part("text", record.text)

    @property
    def licences(self) -> list[str]:
        """The known licences."""
        return [str(one) for one in licences_of(self.source, sorted(self.names))]

    @property
    def repeated_prompts(self) -> int:
        """The number of records with the prompt of an earlier record."""
        return sum(self.prompts.values()) - len(self.prompts)

    @property
    def repeated_pairs(self) -> int:
        """The number of pairs that are equal to an earlier one."""
        return sum(self.pairs.values()) - len(self.pairs)

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as JSON."""
        return {
            "source": self.source,
            "rows": self.rows,
            "unusable": self.unusable,
            "dropped": dict(self.dropped),
            "kinds": dict(self.kinds),
            "characters": {part: quantiles(values) for part, values in self.lengths.items()},
            "languages": {part: dict(counts) for part, counts in self.languages.items()},
            "margins": quantiles(self.margins) if self.margins else None,
            "length_bias": self.bias.as_json() if self.bias.pairs else None,
            "label_shortcuts": self.shortcuts.as_json() if self.shortcuts.pairs else None,
            "licences": self.licences,
            "repeated_prompts": self.repeated_prompts,
            "repeated_pairs": self.repeated_pairs,
            "truncation": self.truncation.as_json() if self.truncation else None,
        }

    def _part(self, part: str, value: str) -> None:
        if value:
            self.lengths.setdefault(part, []).append(len(value))
            self.languages.setdefault(part, Counter())[language(value)] += 1


def stats(
    sources: Iterable[str | Path],
    *,
    format: str | None = None,
    encoding: str | None = None,
    columns: Columns | None = None,
    model: Renderer | None = None,
    max_length: int = 1024,
    pairing: Pairing | None = None,
) -> list[SourceStats]:
    """Measure each file; a ranking counts as the pairs that a policy makes of it.

    Args:
        sources: Files and folders.
        format: The format of all rows; without it the format of each is detected.
        encoding: The encoding of all text files; without it that of each is detected.
        columns: Which columns hold which parts; None: those that the formats know.
        model: A tokenizer and template; adds what `max_length` cuts.
        max_length: The length in tokens.
        pairing: Which pairs of a ranking count; without it the best against the worst.

    Raises:
        DataError: If a file cannot be read. Single bad rows are counted as unusable.
    """
    pairing = pairing or Pairing()
    files = [one for source in sources for one in located(source, columns)]
    with progress([one.file for one in files], worth=SLOW) as watch:
        return [
            _of_file(
                SourceStats(str(file), truncation=Truncation(model, max_length) if model else None),
                format=format,
                encoding=encoding,
                columns=its_columns,
                pairing=pairing,
                watch=watch,
            )
            for file, its_columns in files
        ]


def quantiles(values: list[int] | list[float]) -> dict[str, float]:
    """Return the mean and nearest-rank quantiles."""
    ordered = sorted(values)
    last = len(ordered) - 1
    found = {f"p{q * 100:g}": float(ordered[round(q * last)]) for q in QUANTILES}
    return {"mean": round(sum(ordered) / len(ordered), 2), **found}


def _of_file(
    found: SourceStats,
    *,
    format: str | None,
    encoding: str | None,
    columns: Columns | None,
    pairing: Pairing,
    watch: Watch | None,
) -> SourceStats:
    """Read a file and fill in its statistics."""

    def unreadable(_: Exception) -> None:
        found.rows += 1
        found.unusable += 1

    last = 0
    rows = examples(
        found.source,
        format=format,
        encoding=encoding,
        columns=columns,
        on_error=unreadable,
        watch=watch,
    )
    for example in rows:
        # a row that gives several records is one row
        found.rows += example.row.number != last
        last = example.row.number
        if example.adapter and len(found.names) < NAMES:
            named = example.row.data.get("source")
            found.names |= {example.adapter.name, named if type(named) is str else ""}
        record = example.more or example.record
        if isinstance(record, Unusable):
            found.unusable += 1
            continue
        records = [record]
        if is_paired(record, pairing):
            records, dropped = pairs_of(record, pairing)
            found.dropped.update(why.code for why in dropped)
        for one in records:
            found.add(one, example.row.data)
            if found.truncation and one.kind != "prompt":
                found.truncation.add(Where(found.source, example.row.number), one)
    if found.truncation:
        found.truncation.finish()
    return found
