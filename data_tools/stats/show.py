"""A row as the model sees it: its tokens, which of them carry loss, where it is cut."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alignment.errors import DataError
from data_tools.checks.records import record_findings
from data_tools.convert.pairing import Pairing, pairs_of
from data_tools.examples import Example, examples
from data_tools.formats import Record, Unusable
from data_tools.reading.rows import Fault, RowError
from data_tools.rendering.model_text import ModelText, Spoken
from data_tools.text import plain


class Token(NamedTuple):
    """One token: its text, whether it carries loss, whether max_length leaves it in."""

    text: str
    loss: bool
    kept: bool


class Side(NamedTuple):
    """One sequence the model is given."""

    name: str
    tokens: list[Token]


def example_at(path: Path, number: int, *, format: str | None = None) -> Example:
    """The row with this number.

    Raises:
        DataError: If the file has fewer rows, or the row cannot be used.
    """
    for example in examples(path, format=format, on_error=lambda _: None):
        if example.row.number == number:
            if isinstance(example.record, Unusable):
                why = example.record
                raise RowError.of(example.row, Fault(why.reason, why.remedy, code=why.code))
            return example
    raise DataError(
        f"{path}: row {number} cannot be read or is not there", "see `align data validate`"
    )


def sides(record: Record, model: ModelText, max_length: int) -> list[Side]:
    """Every sequence of a record: both sides of a pair, else one."""
    if record.kind == "ranked":
        pairs, _ = pairs_of(record, Pairing())
        record = pairs[0] if pairs else record
    spoken: dict[str, Spoken] = {}
    if record.kind == "preference":
        spoken["chosen"] = model.spoken(record.prompt, record.chosen)
        spoken["rejected"] = model.spoken(record.prompt, record.rejected)
    elif record.messages is not None:
        spoken["messages"] = model.spoken(record.messages[:-1], record.messages[-1:])
    elif record.kind == "prompt":
        spoken["prompt"] = model.spoken(record.prompt, opened=True)
    else:
        spoken[record.kind] = model.spoken(record.prompt, record.completion or record.text)
    return [Side(name, list(tokens(one, model, max_length))) for name, one in spoken.items()]


def tokens(spoken: Spoken, model: ModelText, max_length: int) -> Iterator[Token]:
    """Tokens of a sequence; bytes of one character that make several tokens show at the first."""
    encoding = model.encoded(spoken.text)
    shown = 0
    for i, (start, end) in enumerate(encoding.offsets):
        text = spoken.text[max(start, shown) : end]
        shown = max(shown, end)
        loss = any(begin <= start < finish for begin, finish in spoken.loss)
        yield Token(text, loss, i < max_length)


def plain_parts(record: Record) -> list[tuple[str, str]]:
    """The parts of a record as text, where no tokenizer is named."""
    named = [
        ("prompt", record.prompt),
        ("chosen", record.chosen),
        ("rejected", record.rejected),
        ("completion", record.completion),
        ("messages", record.messages or ""),
        ("text", record.text),
        *((f"answer {i}", answer) for i, answer in enumerate(record.answers, start=1)),
    ]
    return [(name, plain(value)) for name, value in named if value]


def flaws(record: Record) -> list[str]:
    """The codes of what is wrong with a record by itself."""
    return sorted({finding.code for finding in record_findings(record)})
