"""Texts that are nearly alike: MinHash finds the candidates, their 5-grams decide."""

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
    """An earlier text that is nearly the same, and the share of 5-grams both have."""

    key: int
    jaccard: float


class NearIndex:
    """Texts added one by one, each found again by texts of at least `threshold` likeness.

    Likeness is the Jaccard index of the sets of character 5-grams of normalised texts.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        self.threshold = threshold
        # candidates are verified, so the index may look a little further than the threshold
        self._lsh = MinHashLSH(threshold=max(threshold - 0.1, 0.1), num_perm=PERMUTATIONS)
        self._texts: dict[int, str] = {}

    def nearest(self, text: str) -> Match | None:
        """The most alike of the texts added, if alike enough; the earliest of equals."""
        return self._nearest(text, *_sketch(text))

    def add(self, key: int, text: str) -> Match | None:
        """Add a text unless one like it is there already, which is then returned."""
        grams, sketch = _sketch(text)
        match = self._nearest(text, grams, sketch)
        if match is None:
            self._texts[key] = text
            self._lsh.insert(key, sketch, check_duplication=False)
        return match

    def _nearest(self, text: str, grams: NDArray[np.uint64], sketch: MinHash) -> Match | None:
        best = None
        for key in sorted(self._lsh.query(sketch)):
            likeness = jaccard(grams, five_grams(self._texts[key]))
            if likeness >= self.threshold and (best is None or likeness > best.jaccard):
                best = Match(key, likeness)
        return best


@functools.lru_cache(maxsize=4096)  # repeats come in clusters: the same candidates again and again
def five_grams(text: str) -> NDArray[np.uint64]:
    """The distinct 5-grams of a text as sorted hashes; a shorter text is one gram."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(points) < GRAM:
        points = np.pad(points, (0, GRAM - len(points)))
    grams = sum(points[k : len(points) - GRAM + 1 + k] * _MULTIPLIERS[k] for k in range(GRAM))
    hashes = (grams * _MIX) >> np.uint64(32)
    hashes.sort()
    # np.unique would hash first and sort then: three times as long for the few hundred of a text
    found: NDArray[np.uint64] = hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))]
    return found


def jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Share of the grams of either set that both have."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _sketch(text: str) -> tuple[NDArray[np.uint64], MinHash]:
    """5-grams and their MinHash; the grams are hashes already, so datasketch need not hash."""
    grams = five_grams(text)
    sketch = _EMPTY.copy()
    sketch.update_batch(grams.tolist())
    return grams, sketch
