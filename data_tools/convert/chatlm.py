"""Repeats the merge of ChatLM-mini-Chinese (`utils/dpo_data_process.py`), on request its defects.

Three sources become one file: alpaca rows with a generated rejected answer, huozi, and
rlhf-reward-single-round. A row is dropped if a field is longer than 520 characters or empty, or if
both answers are equal without the white space around them.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from alignment.errors import ConfigError, DataError
from data_tools.convert.output import (
    Summary,
    dropped_path,
    json_line,
    named_for,
    written_rows,
    written_whole,
)
from data_tools.formats import Record, Unusable, adapted, group_id, is_sentinel, row_error, text
from data_tools.reading import Fault, Row, RowError, data_files, read_rows, split_of

LIMIT = 520
"""The original's max_len of 512 and 8 more for the end token, counted in characters."""

DEFECTS: dict[str, str] = {
    "comma-join": "instruction and input are joined by a full-width comma, even after a full stop",
    "sentinels": "inputs that say `无输入` (no input) become part of the prompt",
    "backslash-n": "every backslash-n becomes a newline, also in code and formulas, and only after "
    "equal answers were looked for",
    "whitespace": "fields that are only white space are kept",
    "test-split": "the test rows of the publisher become training rows",
}


class Pair(NamedTuple):
    """The three fields of an output row; `rejected` is None if there is none."""

    prompt: str
    chosen: str
    rejected: str | None


@dataclass
class Rejected:
    """Generated answers by prompt, used in the order in which they were generated."""

    waiting: dict[str, deque[Row]] = field(default_factory=lambda: defaultdict(deque))
    rows: Counter[str] = field(default_factory=Counter)

    def take(self, prompt: str) -> str | None:
        """Return the next answer to a prompt, or None."""
        answers = self.waiting.get(prompt)
        return str(answers.popleft().data["rejected"]) if answers else None

    def left(self) -> list[Row]:
        """Return the answers that no row has used, in their order."""
        waiting = [row for answers in self.waiting.values() for row in answers]
        return sorted(waiting, key=lambda row: (row.source, row.number))


def merge(
    sources: Iterable[str | Path],
    output: Path,
    *,
    defects: frozenset[str] = frozenset(),
    encoding: str | None = None,
) -> list[Summary]:
    """Merge sources by ChatLM's rules; test files get an output of their own.

    An alpaca row gets its rejected answer from the `{prompt, rejected}` rows of any source. The
    answers that no row uses are counted as dropped.

    Args:
        sources: Files, folders and hub names.
        output: The output file; that of the test files is named after it.
        defects: Names in DEFECTS, or `all`.
        encoding: The encoding of text files; without it that of each is detected.

    Raises:
        ConfigError: If a defect is unknown, or all sources hold generated answers.
        DataError: If a row cannot be read.
    """
    if "all" in defects:
        defects = frozenset(DEFECTS)
    if unknown := sorted(defects - set(DEFECTS)):
        raise ConfigError(f"--defect {unknown[0]}: no such defect", f"known: {', '.join(DEFECTS)}")
    files = [file for source in sources for file in data_files(source)]
    rejected = Rejected()
    answers = [file for file in files if _collect(file, rejected, encoding)]
    parts: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if file not in answers:
            test = split_of(file) == "test" and "test-split" not in defects
            parts["test" if test else ""].append(file)
    if not parts:
        raise ConfigError(
            "--preset chatlm: all sources hold generated answers", "name the alpaca file too"
        )
    made = {}
    # the main output ("") comes last, since its summary counts the answers that are left
    for split in sorted(parts, reverse=True):
        last = split == min(parts)
        made[split] = _merge(
            parts[split], named_for(output, split), defects, rejected, last=last, encoding=encoding
        )
    return [made[split] for split in sorted(made)]


def _merge(
    files: list[Path],
    output: Path,
    defects: frozenset[str],
    rejected: Rejected,
    *,
    last: bool,
    encoding: str | None,
) -> Summary:
    summary = Summary(output, "pairs, by the rules of ChatLM-mini-Chinese")
    with written_rows(output) as out, written_whole(dropped_path(output)) as lost:
        for file in files:
            for row in read_rows(file, encoding=encoding):
                summary.rows_in += 1
                _row(row, summary, defects, rejected, out, lost)
        if last:
            for source, rows in rejected.rows.items():
                summary.formats[Path(source).name, "generated answers"] = rows
            for row in rejected.left():
                summary.rows_in += 1
                _drop(row, "answer_to_no_row", summary, lost)
    if not summary.dropped:
        dropped_path(output).unlink()
    return summary


def _row(
    row: Row,
    summary: Summary,
    defects: frozenset[str],
    rejected: Rejected,
    out: IO[bytes],
    lost: IO[bytes],
) -> None:
    """Write a row, or list why it is dropped."""
    name, pair = _pair(row, defects, rejected)
    summary.formats[Path(row.source).name, name] += 1
    code = _why_dropped(pair, defects)
    if code:
        _drop(row, code, summary, lost)
        return
    # only now, as in the original: answers that differ in nothing else have passed the test above
    fields = [value or "" for value in pair]
    if "backslash-n" in defects:
        decoded = [value.replace("\\n", "\n") for value in fields]
        if decoded != fields:
            summary.repaired["backslash-n"] += 1
        fields = decoded
    prompt, chosen, worse = fields
    made = {"prompt": prompt, "chosen": chosen, "rejected": worse}
    place = {"source": Path(row.source).name, "source_row": row.number}
    group = group_id(Record("prompt", prompt))
    out.write(json_line({**made, **place, "group_id": group}))
    summary.rows_out += 1


def _drop(row: Row, code: str, summary: Summary, lost: IO[bytes]) -> None:
    summary.dropped[code] += 1
    lost.write(json_line(RowError.of(row, Fault(code, code=code)).as_json()))


def _why_dropped(pair: Pair, defects: frozenset[str]) -> str:
    """Return the first of ChatLM's rules that a row breaks, or an empty string."""
    for name, value in zip(pair._fields, pair, strict=True):
        if value is None:
            return "no_rejected"
        if len(value) > LIMIT:
            return f"{name}_over_{LIMIT}"
        if not (value if "whitespace" in defects else value.strip()):
            return f"empty_{name}"
    if pair.chosen.strip() == (pair.rejected or "").strip():
        return "chosen_eq_rejected"
    return ""


def _pair(row: Row, defects: frozenset[str], rejected: Rejected) -> tuple[str, Pair]:
    """Return the name of a row's format, alpaca or one of two pairs of texts, and its fields.

    Raises:
        RowError: If it is in another format.
    """
    data = row.data
    if "instruction" in data and isinstance(data.get("output"), str):
        prompt = alpaca_prompt(data, defects)
        return "alpaca", Pair(prompt, data["output"], rejected.take(prompt))
    for example in adapted([row]):
        record = example.record
        # an empty field is one of the rules below, not an error of the format
        if isinstance(record, Unusable) and record.code.startswith("empty_"):
            return _plain_pair(row)
        if isinstance(record, Record) and record.kind == "preference":
            return _plain_pair(row)
    fault = Fault("neither an alpaca row nor a pair of texts", code="wrong_kind")
    raise RowError.of(row, fault)


def alpaca_prompt(data: dict[str, str], defects: frozenset[str]) -> str:
    """Join instruction and input to one prompt, by a newline or by the comma of the original."""
    instruction, given = text(data, "instruction"), text(data, "input", default="")
    if not given.strip() or ("sentinels" not in defects and is_sentinel(given)):
        return instruction
    return f"{instruction}{'，' if 'comma-join' in defects else chr(10)}{given}"


def _plain_pair(row: Row) -> tuple[str, Pair]:
    data = row.data
    key = "reject" if "reject" in data else "rejected"
    try:
        pair = Pair(text(data, "prompt"), text(data, "chosen"), text(data, key))
    except Unusable as why:
        raise row_error(row, why) from None
    return "huozi" if key == "reject" else "pair", pair


def _collect(file: Path, rejected: Rejected, encoding: str | None) -> bool:
    """Collect the answers of a file of `{prompt, rejected}` rows; False if it has other rows."""
    for number, row in enumerate(read_rows(file, encoding=encoding)):
        data = row.data
        is_answer = "chosen" not in data and {"prompt", "rejected"} <= set(data)
        if not is_answer:
            # a file is all answers or none: mixed rows would silently lose their answers
            if number:
                raise DataError(f"{row.where}: no 'rejected', as the rows before have", "")
            return False
        rejected.waiting[str(data["prompt"])].append(row)
        rejected.rows[row.source] += 1
    return True
