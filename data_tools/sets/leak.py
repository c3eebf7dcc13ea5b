"""Finds rows of evaluation sets that a training set contains: equal, similar or in part."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_tools.formats import (
    ReadOptions,
    Record,
    digest,
    normalised,
    one_split,
    plain,
    prompt_of,
    read_options,
    sound_rows,
    spoken_parts,
)
from data_tools.reading import SLOW, Row, place, progress
from data_tools.sets.contamination import GRAM, GramIndex
from data_tools.sets.near import NearIndex

CONTAMINATED = 0.2
"""A row is contaminated from this share of its n-grams on (Touvron et al. 2023, Llama 2, A.6)."""


class Leak(NamedTuple):
    """A row of an evaluation set that the training set contains.

    Attributes:
        code: `leak_exact`, `leak_near` or `contamination`.
        source, row, line: The evaluation row.
        train_source, train_row, train_line: The training row that contains most of it.
        similarity: 1 for equal prompts, the Jaccard index of similar ones, or the share of n-grams.
    """

    code: str
    source: str
    row: int
    line: int | None
    train_source: str
    train_row: int
    train_line: int | None
    similarity: float

    @property
    def where(self) -> str:
        """The place of the evaluation row, `file:line`."""
        return place(self.source, self.row, self.line)

    @property
    def train_where(self) -> str:
        """The place of the training row, `file:line`."""
        return place(self.train_source, self.train_row, self.train_line)


@dataclass
class Leaks:
    """What a training set and evaluation sets share.

    Attributes:
        train, evaluation: The number of records in each.
        found: The strongest leak of each evaluation row that has one, in the order of rows.
        some: Rows that share n-grams, but too few to count.
        short: Rows without n-grams of their own: too short, or only a template.
    """

    train: int = 0
    evaluation: int = 0
    found: list[Leak] = field(default_factory=list)
    some: int = 0
    short: int = 0

    def of(self, code: str) -> list[Leak]:
        """Return the leaks of one code."""
        return [leak for leak in self.found if leak.code == code]


class _Shared(NamedTuple):
    share: float
    row: Row


def leaks(
    train: Path,
    evaluations: Sequence[Path],
    *,
    near: float = 0.8,
    ngram: int = GRAM,
    read: ReadOptions | None = None,
) -> Leaks:
    """Find evaluation prompts that the training set contains: equal, nearly equal, or in part.

    Equal and similar prompts are looked for in prompts, n-grams in prompts and answers, since a
    question may be quoted anywhere.

    Args:
        train: A source of any size, which is read once: a file, a folder, a listed data set.
        evaluations: Sources whose prompts are kept in memory.
        near: The least Jaccard index of similar prompts; 0 to skip them.
        ngram: The number of words in an n-gram; 0 to skip them.
        read: How the rows are read. Default: by what each shows.

    Raises:
        DataError: If a row cannot be read.
    """
    read = read or read_options()
    files = one_split(train, read["columns"])
    sets = [file for one in evaluations for file in one_split(one, read["columns"])]
    with progress([one.file for one in (*sets, *files)], worth=SLOW) as watch:
        # the evaluation sets first: they are small and kept, the training set is only streamed
        rows = sound_rows(sets, watch, read)
        asked = [(row.without_data(), _prompt_text(record)) for row, record in rows]
        grams = GramIndex(dict(enumerate(text for _, text in asked)), ngram) if ngram else None
        found = Leaks(evaluation=len(asked), short=grams.short if grams else 0)
        exact: dict[str, Row] = {}
        alike: list[Row] = []
        index = NearIndex(near) if near else None
        shared: dict[int, _Shared] = {}
        for row, record in sound_rows(files, watch, read):
            found.train += 1
            text, place = _prompt_text(record), row.without_data()
            if exact.setdefault(digest(text), place) is place and index:
                index.add(len(alike), text)
                alike.append(place)
            if grams:
                _note(shared, grams.shared(spoken_parts(record)), place)
    for number, (row, text) in enumerate(asked):
        twin = exact.get(digest(text))
        # only the strongest finding is reported, so the others need not be looked for
        match = index.nearest(text) if index and not twin else None
        if twin:
            found.found.append(_leak("leak_exact", row, twin, 1.0))
        elif match:
            found.found.append(_leak("leak_near", row, alike[match.key], match.jaccard))
        elif number in shared and shared[number].share >= CONTAMINATED:
            found.found.append(
                _leak("contamination", row, shared[number].row, shared[number].share)
            )
        else:
            found.some += number in shared
    return found


def _note(shared: dict[int, _Shared], new: dict[int, float], place: Row) -> None:
    """Keep for each evaluation row the training row that has most of it, the first of several."""
    for number, share in new.items():
        if number not in shared or share > shared[number].share:
            shared[number] = _Shared(share, place)


def _leak(code: str, row: Row, twin: Row, similarity: float) -> Leak:
    here = (row.source, row.number, row.line)
    return Leak(code, *here, twin.source, twin.number, twin.line, round(similarity, 4))


def _prompt_text(record: Record) -> str:
    return normalised(plain(prompt_of(record)))
