"""Checks across rows: repeats, contradictions, circles, answers rejected everywhere."""

import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_tools.checks import Finding, Where
from data_tools.formats import Record, answer_key, plain, prompt_key
from data_tools.reading import split_of

MANY = 5
SHORT = 8


class Edge(NamedTuple):
    """One preference under a prompt: hashes of the better and the worse answer, and its row."""

    better: str
    worse: str
    where: Where


class SetChecks:
    """Collects hashes of every record, then tells what only the whole set can show."""

    def __init__(self) -> None:
        self.edges: dict[str, list[Edge]] = defaultdict(list)
        self.first: dict[str, Where] = {}
        self.rejections: dict[str, dict[str, Where]] = defaultdict(dict)

    def add(self, where: Where, record: Record) -> Iterator[Finding]:
        """Take a record in; repeats of earlier rows are told at once."""
        prompt = prompt_key(record)
        earlier = self.first.setdefault(prompt, where)
        if earlier != where and record.kind != "text":
            place = f"first in {earlier.source}, row {earlier.row}"
            yield Finding("duplicate_prompt", "prompt", place)
            if earlier.source != where.source and _apart(earlier.source, where.source):
                yield Finding("leak_exact", "prompt", place)
        if record.kind != "preference":
            return
        chosen, rejected = answer_key(plain(record.chosen)), answer_key(plain(record.rejected))
        edge = Edge(chosen, rejected, where)
        if any((e.better, e.worse) == (chosen, rejected) for e in self.edges[prompt]):
            yield Finding("duplicate_pair")
        self.edges[prompt].append(edge)
        if len(plain(record.rejected)) >= SHORT:
            self.rejections[rejected].setdefault(prompt, where)

    def finish(self) -> Iterator[tuple[Where, Finding]]:
        """What the whole set shows, each at the row where it came to light."""
        for edges in self.edges.values():
            if len(edges) > 1:
                yield from _group(edges)
        for prompts in self.rejections.values():
            if len(prompts) >= MANY:
                where = next(iter(prompts.values()))
                yield where, Finding("rejected_in_many", "rejected", f"{len(prompts)} prompts")


@functools.cache
def _apart(one: str, other: str) -> bool:
    """Whether two files are, by their names, the train part and another part of a set."""
    splits = {split_of(Path(one)), split_of(Path(other))}
    return "train" in splits and len(splits - {""}) == 2


def _group(edges: list[Edge]) -> Iterator[tuple[Where, Finding]]:
    """Contradictions, circles and answers on both sides within one prompt."""
    edges = [edge for edge in edges if edge.better != edge.worse]
    seen = {(edge.better, edge.worse) for edge in edges}
    told: set[Where] = set()
    for edge in edges:
        if (edge.worse, edge.better) in seen:
            told.add(edge.where)
            yield edge.where, Finding("contradiction")
    circles = in_circles({(b, w) for b, w in seen if (w, b) not in seen})
    chosen = {better for better, _ in seen}
    rejected = {worse for _, worse in seen}
    for edge in edges:
        if edge.where in told:
            continue
        if any(edge.better in circle and edge.worse in circle for circle in circles):
            told.add(edge.where)
            yield edge.where, Finding("preference_cycle")
        elif edge.better in rejected or edge.worse in chosen:
            told.add(edge.where)
            yield edge.where, Finding("chosen_elsewhere_rejected")


def in_circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    """The strongly connected parts of a graph: answers of which each leads to each."""
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
    """Edges left once sources and sinks are taken off, which is none for most prompts."""
    left = {(better, worse) for better, worse in edges if better != worse}
    while True:
        better, worse = {b for b, _ in left}, {w for _, w in left}
        kept = {(b, w) for b, w in left if b in worse and w in better}
        if kept == left:
            return left
        left = kept


def _reached(node: str, edges: dict[str, set[str]]) -> set[str]:
    """The nodes that some steps lead to, the first one included."""
    found, waiting = {node}, [node]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found
