"""Any sources to JSON lines of one shape, with every row that did not make it accounted for."""

import dataclasses
import re
from collections import Counter, defaultdict
from pathlib import Path

from alignment.errors import ConfigError
from data_tools.convert.parallel import NotParallel, take_in_parallel
from data_tools.convert.repairs import Repairs
from data_tools.convert.summary import Summary, dropped_path
from data_tools.convert.writer import Conversion, RecordWriter
from data_tools.convert.writing import written_whole
from data_tools.formats import examples
from data_tools.reading import data_files, progress

__all__ = ["Conversion", "convert", "named_for", "split_of"]

SPLIT = re.compile(r"(?:^|[-_.:])(train|test|validation|valid|dev|eval)(?:[-_.]|$)", re.IGNORECASE)


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
    if conversion.num_proc > 1:
        try:
            return _written(files, output, conversion, repairs)
        except NotParallel:
            # what one process cannot do alone, or must report in order, is done in order
            conversion = dataclasses.replace(conversion, num_proc=1)
            repairs.counts.clear()
    return _written(files, output, conversion, repairs)


def _written(files: list[Path], output: Path, conversion: Conversion, repairs: Repairs) -> Summary:
    ledger = dropped_path(output)
    with progress(files) as watch, written_whole(output) as out, written_whole(ledger) as lost:
        writer = RecordWriter(Summary(output), conversion, out, lost)
        for file in files:
            if conversion.num_proc > 1:
                take_in_parallel(file, writer, repairs, watch)
            else:
                writer.take(
                    examples(
                        file,
                        format=conversion.format or None,
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


def split_of(file: Path) -> str:
    """The split that a file's name speaks of, or nothing."""
    found = SPLIT.search(file.name.split(".parquet")[0].split(".json")[0].split(".csv")[0])
    return found[1].lower() if found else ""


def named_for(output: Path, split: str) -> Path:
    """The output for one split: `pairs.train.jsonl`."""
    stem = output.name.removesuffix(".jsonl")
    return output.with_name(f"{stem}.{split}.jsonl" if split else output.name)
