"""Finds texts that are nearly equal: MinHash finds the candidates, their 5-grams decide."""

import functools
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

GRAM = 5
PERMUTATIONS = 64
_MULTIPLIERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)

_EMPTY = MinHash(num_perm=PERMUTATIONS, hashfunc=int)


class Match(NamedTuple):
    """An earlier text that is nearly equal, and the Jaccard index of both."""

    key: int
    jaccard: float


class NearIndex:
    """Texts that are added one by one and found by similar ones.

    Args:
        threshold: The least similarity: the Jaccard index of the sets of character 5-grams.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        self.threshold = threshold
        # candidates are verified, so the index may return some below the threshold
        self._lsh = MinHashLSH(threshold=max(threshold - 0.1, 0.1), num_perm=PERMUTATIONS)
        self._texts: dict[int, str] = {}

    def nearest(self, text: str) -> Match | None:
        """Return the most similar text if it is similar enough; the earliest of several."""
        return self._nearest(text, *_sketch(text))

    def add(self, key: int, text: str) -> Match | None:
        """Add a text, or return the similar text that is there already."""
        grams, sketch = _sketch(text)
        match = self._nearest(text, grams, sketch)
        if match is None:
            self._texts[key] = text
            self._lsh.insert(key, sketch, check_duplication=False)
        return match

    def _nearest(self, text: str, grams: NDArray[np.uint64], sketch: MinHash) -> Match | None:
        best = None
        for key in sorted(self._lsh.query(sketch)):
            similarity = jaccard(grams, five_grams(self._texts[key]))
            if similarity >= self.threshold and (best is None or similarity > best.jaccard):
                best = Match(key, similarity)
        return best


@functools.lru_cache(maxsize=4096)  # repeats come in clusters with the same candidates
def five_grams(text: str) -> NDArray[np.uint64]:
    """Return the distinct 5-grams of a text as sorted hashes; a shorter text is one gram."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(points) < GRAM:
        points = np.pad(points, (0, GRAM - len(points)))
    grams = sum(points[k : len(points) - GRAM + 1 + k] * _MULTIPLIERS[k] for k in range(GRAM))
    hashes = (grams * _MIX) >> np.uint64(32)
    hashes.sort()
    # np.unique hashes before it sorts, which takes three times as long for a few hundred grams
    found: NDArray[np.uint64] = hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))]
    return found


def jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Return the Jaccard index of two sets: shared grams by all grams."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _sketch(text: str) -> tuple[NDArray[np.uint64], MinHash]:
    """Return 5-grams and their MinHash, which uses them as hashes without hashing them again."""
    grams = five_grams(text)
    sketch = _EMPTY.copy()
    sketch.update_batch(grams.tolist())
    return grams, sketch
