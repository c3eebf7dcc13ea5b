"""Where the tokens of a text are, as ranges of its characters.

The tokenizer says it when it is asked for offsets, which takes half as long again as ids alone. The
ids of a byte-level vocabulary spell the text byte by byte, so the places follow from the lengths of
the tokens. That is proven for each text: what its ids spell must be exactly its bytes, which is
false if a normalizer or a prefix changed it, or if an added token swallowed the space next to it.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer, decoders

Positions: TypeAlias = npt.NDArray[np.int64]
Span: TypeAlias = tuple[int, int]


class Located(NamedTuple):
    """The tokens of a text.

    Attributes:
        ids: Their ids.
        starts, ends: The range `[start, end)` of characters that each covers, `(N,)`, both in
            ascending order. The tokens of one character have the same range; that of a token which
            the tokenizer adds to the text is empty.
    """

    ids: list[int]
    starts: Positions
    ends: Positions


class Spelling:
    """The bytes that each token of a byte-level vocabulary stands for."""

    def __init__(self, encoder: Tokenizer) -> None:
        vocabulary = encoder.get_vocab(with_added_tokens=False)
        added = encoder.get_added_tokens_decoder()
        pieces = [b""] * (1 + max((*vocabulary.values(), *added), default=0))
        letters = _byte_letters()
        for token, number in vocabulary.items():
            pieces[number] = token.translate(letters).encode("latin-1", "replace")
        for number, one in added.items():
            pieces[number] = one.content.encode()
        self._sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
        self._begins = np.cumsum(self._sizes) - self._sizes
        self._bytes = np.frombuffer(b"".join(pieces), np.uint8)

    def spelled(
        self, ids: npt.NDArray[np.int32], is_own: npt.NDArray[np.bool_]
    ) -> tuple[Positions, Positions, npt.NDArray[np.uint8]]:
        """Where tokens begin and end in what they spell, `(N,)`, and the bytes of that.

        Those of the tokenizer's own, `(N,)`, spell nothing.
        """
        sizes = np.where(is_own, 0, self._sizes[ids])
        ends = np.cumsum(sizes)
        begins = ends - sizes
        moved = np.repeat(self._begins[ids] - begins, sizes)
        return begins, ends, self._bytes[moved + np.arange(len(moved))]


def spelling_of(encoder: Tokenizer) -> Spelling | None:
    """The spelling of a byte-level vocabulary; None if places do not follow from it."""
    is_byte_level = isinstance(encoder.decoder, decoders.ByteLevel)
    return Spelling(encoder) if is_byte_level and not _trims(encoder.post_processor) else None


def locate(
    encoder: Tokenizer, spelling: Spelling | None, texts: Sequence[str], *, adds_special: bool
) -> list[Located]:
    """Tokenise texts and find the places of the tokens.

    Args:
        encoder: The tokenizer.
        spelling: Its `spelling_of`; None: it is asked for the places, which takes longer.
        texts: The texts.
        adds_special: Whether the tokenizer adds its own special tokens.
    """
    if spelling is None:
        encodings = encoder.encode_batch(texts, add_special_tokens=adds_special)
        return [_by_offsets(one) for one in encodings]
    encodings = encoder.encode_batch_fast(texts, add_special_tokens=adds_special)
    found = list(_by_spelling(spelling, texts, encodings, adds_special))
    unproven = [text for text, one in zip(texts, found, strict=True) if one is None]
    asked = iter(locate(encoder, None, unproven, adds_special=adds_special) if unproven else ())
    return [next(asked) if one is None else one for one in found]


def _by_offsets(encoding: Encoding) -> Located:
    ids = encoding.ids
    flat = np.fromiter(chain.from_iterable(encoding.offsets), np.int64, 2 * len(ids))
    starts, ends = flat[::2], np.maximum.accumulate(flat[1::2])
    # a token that the tokenizer adds at the end is said to be at (0, 0)
    return Located(ids, np.where(starts < flat[1::2], starts, ends), ends)


def _by_spelling(
    spelling: Spelling, texts: Sequence[str], encodings: Sequence[Encoding], adds_special: bool
) -> Iterator[Located | None]:
    """The places of the tokens of each text; None if its ids spell another text."""
    ids = [one.ids for one in encodings]
    counts = [len(one) for one in ids]
    until = [0, *accumulate(counts)]
    flat = np.fromiter(chain.from_iterable(ids), np.int32, until[-1])
    is_own = np.zeros(len(flat), np.bool_)
    if adds_special:
        is_own[:] = list(chain.from_iterable(one.special_tokens_mask for one in encodings))
    begins, ends, spelled = spelling.spelled(flat, is_own)
    # Characters that begin before each byte: all but the bytes 10xxxxxx of UTF-8 begin one. One
    # more byte, as a token without text at the end begins there.
    before = np.cumsum(np.append(np.append(0, (spelled & 0xC0) != 0x80), 1))
    edges = np.append(0, ends)[until]
    passed = np.repeat(before[edges[:-1]], counts)  # characters of the texts before
    starts, stops = before[begins + 1] - 1 - passed, before[ends] - passed
    whole, bounds = spelled.tobytes(), edges.tolist()
    for i, text in enumerate(texts):
        if whole[bounds[i] : bounds[i + 1]] == text.encode():
            own = slice(until[i], until[i + 1])
            yield Located(ids[i], starts[own], stops[own])
        else:
            yield None


def ranges(located: Sequence[Located], spans: Sequence[Sequence[Span]]) -> list[list[Span]]:
    """The tokens `[first, last)` that overlap each of some spans `[start, end)` of texts.

    Args:
        located: The texts.
        spans: For each text, some spans of it.

    Returns:
        For each text, the ranges of its spans; a span without a token has an empty one.
    """
    if not any(spans):
        return [[] for _ in spans]
    sizes = [len(one.ids) for one in located]
    # all texts on end, each moved so far that none reaches into the next: one search for all
    farthest = max(end for own in spans for _, end in own)
    width = 1 + max([farthest, *(int(one.ends[-1]) for one in located if one.ids)])
    moves = np.arange(len(located)) * width
    starts = np.concatenate([one.starts for one in located]) + np.repeat(moves, sizes)
    ends = np.concatenate([one.ends for one in located]) + np.repeat(moves, sizes)
    counts = [len(own) for own in spans]
    wanted = np.array([span for own in spans for span in own], np.int64)
    wanted += np.repeat(moves, counts)[:, None]
    first = np.searchsorted(ends, wanted[:, 0], side="right")
    last = np.searchsorted(starts, wanted[:, 1], side="left")
    last = np.where(wanted[:, 0] < wanted[:, 1], np.maximum(first, last), first)
    origin = np.repeat(np.cumsum(sizes) - sizes, counts)
    found = iter(zip((first - origin).tolist(), (last - origin).tolist(), strict=True))
    return [list(islice(found, count)) for count in counts]


def _trims(processor: Any) -> bool:
    """Whether a post-processor takes the spaces around tokens out of their places."""
    # as JSON, since post-processors may be nested and name no members
    return processor is not None and b'"trim_offsets":true' in processor.__getstate__()


def _byte_letters() -> dict[int, int]:
    """The letters in which byte-level vocabularies write bytes, with the bytes; from GPT-2."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(0x100) if byte not in printed)
    return {byte: byte for byte in printed} | {0x100 + i: byte for i, byte in enumerate(others)}
