"""Finds the format of a row and reads it into a record; makes pairs of ranked answers."""

from data_tools.formats.advice import columns_advice
from data_tools.formats.detect import BY_NAME, FORMATS, by_name, detect, nearest
from data_tools.formats.mapping import Columns, parse_columns
from data_tools.formats.pairing import Pairing, is_paired, pairs_of
from data_tools.formats.plain_text import (
    answer_key,
    before_last_answer,
    contents,
    digest,
    group_id,
    is_blank,
    is_sentinel,
    normalised,
    plain,
    prompt_key,
    prompt_of,
    spoken_parts,
)
from data_tools.formats.read import (
    Example,
    adapted,
    adapted_batches,
    examples,
    row_error,
    sound_rows,
)
from data_tools.formats.record import (
    ALIASES,
    HARD,
    Adapter,
    Kind,
    Message,
    Record,
    Text,
    Unusable,
    listed,
    text,
)
from data_tools.formats.sources import Located, listed_entry, located, weighted
from data_tools.formats.turns import as_messages

__all__ = [
    "ALIASES",
    "BY_NAME",
    "FORMATS",
    "HARD",
    "Adapter",
    "Columns",
    "Example",
    "Kind",
    "Located",
    "Message",
    "Pairing",
    "Record",
    "Text",
    "Unusable",
    "adapted",
    "adapted_batches",
    "answer_key",
    "as_messages",
    "before_last_answer",
    "by_name",
    "columns_advice",
    "contents",
    "detect",
    "digest",
    "examples",
    "group_id",
    "is_blank",
    "is_paired",
    "is_sentinel",
    "listed",
    "listed_entry",
    "located",
    "nearest",
    "normalised",
    "pairs_of",
    "parse_columns",
    "plain",
    "prompt_key",
    "prompt_of",
    "row_error",
    "sound_rows",
    "spoken_parts",
    "text",
    "weighted",
]
