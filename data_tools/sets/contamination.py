"""Finds n-grams of 13 words that training text shares with an evaluation set.

It follows the contamination checks of GPT-3 (Brown et al. 2020, appendix C): a question may be part
of a longer text, which neither equal nor similar prompts would show.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from data_tools.formats import normalised

GRAM = 13
COMMON = 10
"""An n-gram of more evaluation rows than this belongs to a template, not to a question."""
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
"""A word; in Chinese and Japanese a character, since they have no spaces."""


class GramIndex:
    """The n-grams of an evaluation set, which can be found in any number of training texts.

    Only the evaluation set is kept in memory, so the training set may have any size.

    Args:
        texts: The evaluation texts, each by a number.
        size: The number of words in an n-gram.
    """

    def __init__(self, texts: Mapping[int, str], size: int = GRAM) -> None:
        self._size = size
        self._ids: dict[str, int] = {}
        # each position in an n-gram has an odd factor of its own, so that word order counts;
        # the seed is fixed, since the hashes must be the same in each run
        self._factors = np.random.default_rng(0).integers(
            1, 2**64 - 1, size=size, dtype=np.uint64, endpoint=True
        ) | np.uint64(1)
        rows: dict[int, set[int]] = {}
        owners: dict[int, list[int]] = defaultdict(list)
        for key, text in texts.items():
            words = WORD.findall(normalised(text))
            ids = [self._ids.setdefault(word, len(self._ids) + 1) for word in words]
            rows[key] = set(self._hashes(ids).tolist())
            for gram in rows[key]:
                owners[gram].append(key)
        self._owners = {gram: keys for gram, keys in owners.items() if len(keys) <= COMMON}
        self._sizes = {key: len(grams & self._owners.keys()) for key, grams in rows.items()}
        self._known = np.array(sorted(self._owners), np.uint64)

    @property
    def short(self) -> int:
        """How many evaluation texts have no n-gram of their own: too short, or all template."""
        return sum(not size for size in self._sizes.values())

    def shared(self, texts: Iterable[str]) -> dict[int, float]:
        """Return evaluation texts that share n-grams with some texts, and what share of theirs."""
        ids: list[int] = []
        for text in texts:
            ids += [self._ids.get(word, 0) for word in WORD.findall(normalised(text))]
            ids.append(0)  # so that no n-gram extends from one text into the next
        hashes = self._hashes(ids)
        if not len(hashes) or not len(self._known):
            return {}
        at = np.searchsorted(self._known, hashes).clip(max=len(self._known) - 1)
        found: dict[int, int] = defaultdict(int)
        for gram in np.unique(hashes[self._known[at] == hashes]).tolist():
            for key in self._owners[gram]:
                found[key] += 1
        return {key: count / self._sizes[key] for key, count in found.items()}

    def _hashes(self, ids: list[int]) -> NDArray[np.uint64]:
        """Hash the n-grams without 0, which stands for words that are in no evaluation text."""
        count = len(ids) - self._size + 1
        if count < 1:
            return np.empty(0, np.uint64)
        words = np.array(ids, np.uint64)
        unknown = np.concatenate(([0], np.cumsum(words == 0)))
        whole = np.flatnonzero(unknown[self._size :] == unknown[: -self._size])
        hashes = np.zeros(len(whole), np.uint64)
        for k in range(self._size):
            hashes += words[whole + k] * self._factors[k]
        return hashes
