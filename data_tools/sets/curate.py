"""Splits data sets by prompt and removes repeats."""

import contextlib
import random
from collections.abc import Iterable
from pathlib import Path

from alignment.errors import ConfigError
from data_tools.convert.output import (
    STDOUT,
    Summary,
    check_output,
    dropped_path,
    json_line,
    named_for,
    written_rows,
    written_whole,
)
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
from data_tools.reading import SLOW, Fault, Row, RowError, progress
from data_tools.sets.near import NearIndex


def split(
    source: Path,
    output: Path,
    *,
    evaluation: float,
    test: float = 0.0,
    seed: int = 0,
    read: ReadOptions | None = None,
) -> dict[str, Summary]:
    """Split rows into train, eval and test, so that no prompt is in two of them.

    A conversation goes where its first question goes, since its later prompts contain it. Only the
    random seed and the prompt decide, so rows that are added later move no other row.

    Args:
        source: A file, a folder or a listed data set.
        output: `out.jsonl` gives `out.train.jsonl`, `out.eval.jsonl` and so on.
        evaluation: The share of eval, from 0 to 1.
        test: The share of test; 0 for none.
        seed: The random seed.
        read: How the rows are read. Default: by what each shows.

    Raises:
        ConfigError: If the shares leave nothing to train on.
        DataError: If a row cannot be read.
    """
    if not 0 < evaluation + test < 1:
        raise ConfigError("--eval and --test must leave something to train on", "e.g. --eval 0.05")
    if output == STDOUT:
        raise ConfigError("-o -: a split is several files", "name them: -o out.jsonl")
    read = read or read_options()
    sides = ["train", "eval", "test"] if test else ["train", "eval"]
    summaries = {side: Summary(named_for(output, side), side) for side in sides}
    files = one_split(source, read["columns"])
    for summary in summaries.values():
        check_output(summary.output, files)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(progress([one.file for one in files], worth=SLOW))
        out = {side: stack.enter_context(written_rows(summaries[side].output)) for side in sides}
        for row, record in sound_rows(files, watch, read):
            # seeded by the prompt, so that rows added later move no other row
            draw = random.Random(f"{seed}:{opening_key(record)}").random()
            side = "eval" if draw < evaluation else "test" if draw < evaluation + test else "train"
            out[side].writelines(map(json_line, row.originals))
            summaries[side].rows_out += len(row.originals)
    total = sum(summary.rows_out for summary in summaries.values())
    for summary in summaries.values():
        summary.rows_in = total
    return summaries


def dedup(
    sources: Iterable[Path],
    output: Path,
    *,
    near: float = 0.0,
    by: str = "row",
    read: ReadOptions | None = None,
) -> Summary:
    """Keep the first of rows that are equal after normalisation, or nearly equal.

    Args:
        sources: Files, folders and listed data sets; rows of earlier ones are kept.
        output: The rows that are kept, unchanged.
        near: The least similarity of near duplicates; 0 finds only exact ones.
        by: `row` compares prompts and answers, `prompt` only prompts.
        read: How the rows are read. Default: by what each shows.

    Raises:
        DataError: If a row cannot be read.
    """
    summary = Summary(output, "rows unchanged")
    index = NearIndex(near) if near else None
    seen: dict[str, Row] = {}
    kept: list[Row] = []
    read = read or read_options()
    files = [one for source in sources for one in one_split(source, read["columns"])]
    check_output(output, files)
    with (
        progress([one.file for one in files], worth=SLOW) as watch,
        written_rows(output) as out,
        written_whole(dropped_path(output)) as lost,
    ):
        for row, record in sound_rows(files, watch, read):
            summary.rows_in += len(row.originals)
            why = _repeat(row, _compared(record, by), seen, kept, index)
            if why is None:
                # only the place is needed later, so that memory does not hold the data set
                kept.append(row.without_data())
                out.writelines(map(json_line, row.originals))
                summary.rows_out += len(row.originals)
                continue
            code, reason = why
            summary.dropped[code] += len(row.originals)
            lost.write(json_line(RowError.of(row, Fault(reason, code=code)).as_json()))
    if not summary.dropped:
        dropped_path(output).unlink()
    return summary


def opening_key(record: Record) -> str:
    """Return a key that is the same for conversations with the same first question."""
    prompt = prompt_of(record)
    if isinstance(prompt, str):
        return digest(normalised(prompt))
    asked = [str(turn["content"]) for turn in prompt if turn["role"] == "user"]
    return digest(normalised(asked[0] if asked else plain(prompt)))


def _compared(record: Record, by: str) -> str:
    """Return the text by which rows are compared."""
    if by == "prompt":
        return normalised(plain(prompt_of(record)))
    return normalised("\n".join(spoken_parts(record)))


def _repeat(
    row: Row, text: str, seen: dict[str, Row], kept: list[Row], index: NearIndex | None
) -> tuple[str, str] | None:
    """Return code and reason if a row is a repeat; else remember it and return None."""
    key = digest(text)
    if key in seen:
        return "duplicate", f"equal to {seen[key].where}"
    if index and (match := index.add(len(kept), text)):
        return "near_duplicate", f"{match.jaccard:.0%} similar to {kept[match.key].where}"
    seen[key] = row.without_data()
    return None
