"""Checks across rows: repeats, contradictions, circles, answers that are rejected everywhere."""

import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_tools.checks import Finding, Where
from data_tools.formats import (
    Record,
    answer_key,
    normalised,
    plain,
    prompt_key,
    spoken_parts,
)
from data_tools.reading import split_of
from data_tools.sets.near import NearIndex

NEAR = 0.9
"""Least similarity of a row to one that it nearly repeats: shared 5-grams of letters and digits."""
NO_WORD = re.compile(r"[\W_]+")
MOST_COMPARED, SHORTEST_COMPARED = 20_000, 20
MANY = 5
"""Prompts under which an answer is rejected before that is a finding."""
SHORT = 8
"""Characters below which an answer may well be rejected often, such as `No.`"""


class Edge(NamedTuple):
    """One preference under a prompt: keys of the better and the worse answer, and the row."""

    better: str
    worse: str
    where: Where


class SetChecks:
    """Collects keys of all records and finds what only the whole set can show."""

    def __init__(self) -> None:
        self.edges: dict[str, list[Edge]] = defaultdict(list)
        self.first: dict[str, Where] = {}
        self.rejections: dict[str, dict[str, Where]] = defaultdict(dict)
        self.near = NearIndex(NEAR)
        self.compared: list[Where] = []
        self.more = 0

    def add(self, where: Where, record: Record) -> Iterator[Finding]:
        """Add a record; yields repeats of earlier rows at once."""
        prompt = prompt_key(record)
        earlier = self.first.setdefault(prompt, where)
        if earlier != where and record.kind != "text":
            place = f"first in {earlier}"
            yield Finding("duplicate_prompt", "prompt", place)
            if earlier.source != where.source and _apart(earlier.source, where.source):
                yield Finding("leak_exact", "prompt", place)
        if earlier == where or record.kind == "text":
            yield from self._near(where, record)
        if record.kind != "preference":
            return
        chosen, rejected = answer_key(plain(record.chosen)), answer_key(plain(record.rejected))
        edge = Edge(chosen, rejected, where)
        # hashes, not texts: memory stays small for millions of rows
        if any((e.better, e.worse) == (chosen, rejected) for e in self.edges[prompt]):
            yield Finding("duplicate_pair")
        self.edges[prompt].append(edge)
        if len(plain(record.rejected)) >= SHORT:
            self.rejections[rejected].setdefault(prompt, where)

    def _near(self, where: Where, record: Record) -> Iterator[Finding]:
        """Yield the earlier row that a row nearly repeats, prompt and answers together."""
        # a row that gives several records is compared once
        if self.compared and self.compared[-1] == where:
            return
        if len(self.compared) >= MOST_COMPARED:
            self.more += 1
            return
        text = NO_WORD.sub("", normalised("\n".join(spoken_parts(record))))
        if len(text) < SHORTEST_COMPARED:
            return
        match = self.near.add(len(self.compared), text)
        if match:
            place = f"{match.jaccard:.0%} similar to {self.compared[match.key]}"
            yield Finding("near_duplicate", "", place)
        else:
            self.compared.append(where)

    def finish(self) -> Iterator[tuple[Where, Finding]]:
        """Yield what the whole set shows, each with a row that shows it."""
        for edges in self.edges.values():
            if len(edges) > 1:
                yield from _group(edges)
        for prompts in self.rejections.values():
            if len(prompts) >= MANY:
                where = next(iter(prompts.values()))
                yield where, Finding("rejected_in_many", "rejected", f"{len(prompts)} prompts")


@functools.cache
def _apart(one: str, other: str) -> bool:
    """Whether the names of two files say that one is the train part of a set, the other not."""
    splits = {split_of(Path(one)), split_of(Path(other))}
    return "train" in splits and len(splits - {""}) == 2


def _group(edges: list[Edge]) -> Iterator[tuple[Where, Finding]]:
    """Yield contradictions, circles, and answers on both sides, under one prompt."""
    # equal answers prefer nothing, and have a code of their own
    edges = [edge for edge in edges if edge.better != edge.worse]
    seen = {(edge.better, edge.worse) for edge in edges}
    reported: set[Where] = set()
    for edge in edges:
        if (edge.worse, edge.better) in seen:
            reported.add(edge.where)
            yield edge.where, Finding("contradiction")
    # without contradictions, which are circles of two and reported as such
    circles = in_circles({(b, w) for b, w in seen if (w, b) not in seen})
    chosen = {better for better, _ in seen}
    rejected = {worse for _, worse in seen}
    for edge in edges:
        if edge.where in reported:
            continue
        if any(edge.better in circle and edge.worse in circle for circle in circles):
            reported.add(edge.where)
            yield edge.where, Finding("preference_cycle")
        elif edge.better in rejected or edge.worse in chosen:
            reported.add(edge.where)
            yield edge.where, Finding("chosen_elsewhere_rejected")


def in_circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    """Return the strongly connected parts of a graph: answers that are both better and worse."""
    ahead, behind = defaultdict(set), defaultdict(set)
    for better, worse in _without_ends(edges):
        ahead[better].add(worse)
        behind[worse].add(better)
    found = []
    rest = set(ahead)
    while rest:
        node = rest.pop()
        circle = _reached(node, ahead) & _reached(node, behind)
        rest -= circle
        if len(circle) > 1:
            found.append(circle)
    return found


def _without_ends(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Remove sources and sinks until none is left; for most prompts that removes all edges."""
    left = {(better, worse) for better, worse in edges if better != worse}
    while True:
        better, worse = {b for b, _ in left}, {w for _, w in left}
        kept = {(b, w) for b, w in left if b in worse and w in better}
        if kept == left:
            return left
        left = kept


def _reached(node: str, edges: dict[str, set[str]]) -> set[str]:
    """Return the nodes that can be reached from a node, and the node itself."""
    found, waiting = {node}, [node]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found
