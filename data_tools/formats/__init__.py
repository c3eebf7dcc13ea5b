"""Every known format of preference and SFT data: which one a row is in, and its records."""

from data_tools.formats.adapter import Adapter
from data_tools.formats.detect import BY_NAME, FORMATS, by_name, detect, nearest, passed_over
from data_tools.formats.examples import Example, adapted, adapted_batches, examples
from data_tools.formats.pairing import Pairing, is_paired, pairs_of
from data_tools.formats.plain_text import contents, digest, is_blank, normalised, plain
from data_tools.formats.record import ALIASES, Kind, Message, Record, Text, Unusable, listed, text
from data_tools.formats.turns import as_messages

__all__ = [
    "ALIASES",
    "BY_NAME",
    "FORMATS",
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
    "as_messages",
    "by_name",
    "contents",
    "detect",
    "digest",
    "examples",
    "is_blank",
    "is_paired",
    "listed",
    "nearest",
    "normalised",
    "pairs_of",
    "passed_over",
    "plain",
    "text",
]
