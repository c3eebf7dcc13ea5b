"""Every known format of preference and SFT data: which one a row is in, and its records."""

from data_tools.formats.adapter import Adapter
from data_tools.formats.detect import BY_NAME, FORMATS, by_name, detect, nearest, passed_over
from data_tools.formats.examples import Example, adapted, adapted_batches, examples, sound_rows
from data_tools.formats.pairing import Pairing, is_paired, pairs_of
from data_tools.formats.plain_text import (
    answer_key,
    contents,
    digest,
    group_id,
    is_blank,
    normalised,
    plain,
    prompt_key,
    prompt_of,
    spoken_parts,
)
from data_tools.formats.record import (
    ALIASES,
    HARD,
    Kind,
    Message,
    Record,
    Text,
    Unusable,
    listed,
    text,
)
from data_tools.formats.supervised import is_sentinel
from data_tools.formats.turns import as_messages

__all__ = [
    "ALIASES",
    "BY_NAME",
    "FORMATS",
    "HARD",
    "Adapter",
    "Example",
    "Kind",
    "Message",
    "Pairing",
    "Record",
    "Text",
    "Unusable",
    "adapted",
    "adapted_batches",
    "answer_key",
    "as_messages",
    "by_name",
    "contents",
    "detect",
    "digest",
    "examples",
    "group_id",
    "is_blank",
    "is_paired",
    "is_sentinel",
    "listed",
    "nearest",
    "normalised",
    "pairs_of",
    "passed_over",
    "plain",
    "prompt_key",
    "prompt_of",
    "sound_rows",
    "spoken_parts",
    "text",
]
