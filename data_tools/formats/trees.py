"""Open Assistant: trees of messages, nested or flat, in which people ranked the answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from data_tools.formats.record import Adapter, Data, Message, Record, Text, Unusable, fields, text
from data_tools.formats.turns import ROLES, ranked_of
from data_tools.reading import MadeRow, Row


def tree(data: Data) -> list[Record | Unusable]:
    """Open Assistant: a record per message with ranked answers; the prompt is the path to it."""
    if "orphan" in data:
        above = data["orphan"]
        raise Unusable("no_parent", f"the message {above!r}, which it answers, is not in a tree")
    records: list[Record | Unusable] = []
    stack: list[tuple[dict[str, Any], list[Message]]] = [(fields(data["prompt"], "prompt"), [])]
    # a loop, so that no tree is too deep for the recursion limit of Python
    while stack:
        node, before = stack.pop()
        role = ROLES.get(text(node, "role"), "")
        path = [*before, {"role": role, "content": text(node, "text")}]
        replies = [fields(r, "replies") for r in node.get("replies") or [] if _kept(r)]
        if role == "user" and len(replies) > 1:
            records.append(_ranked(path, replies))
        stack.extend((reply, path) for reply in reversed(replies))
    if not records:
        raise Unusable("one_answer", "no message of this tree has two answers")
    return records


def gather_trees(rows: Iterable[Row]) -> Iterator[Row]:
    """Join the flat messages of each tree into one nested row, in the place of its first message.

    The messages of a tree need not be adjacent, so the whole file is kept in memory.
    """
    by_id: dict[str, _Node] = {}
    nodes: list[_Node] = []
    for row in rows:
        nodes.append(_Node(row, {**row.data, "replies": []}, []))
        by_id.setdefault(str(row.data.get("message_id")), nodes[-1])
    tops: list[tuple[_Node, Data]] = []
    for node in nodes:
        above = node.message.get("parent_id")
        parent = None if above is None else by_id.get(str(above))
        if parent is None or parent is node:
            tops.append((node, {"prompt": node.message} if above is None else {"orphan": above}))
        else:
            parent.message["replies"].append(node.message)
            parent.below.append(node)
    reached = {id(one) for top, _ in tops for one in top.whole()}
    # what is left are messages that are below each other
    rings = [node for node in nodes if id(node) not in reached]
    tops += [(node._replace(below=[]), {"orphan": node.message["parent_id"]}) for node in rings]
    for top, data in tops:
        members = [one.row.data for one in top.whole()]
        yield MadeRow(top.row.source, top.row.number, top.row.start, dict(data), members)


class _Node(NamedTuple):
    """A message, as its row and as a part of a tree."""

    row: Row
    message: dict[str, Any]
    below: list[_Node]

    def whole(self) -> Iterator[_Node]:
        """Yield it and all below it."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending += reversed(node.below)


def _kept(reply: object) -> bool:
    """Whether a message has passed its review and was not deleted."""
    if not isinstance(reply, dict):
        return True
    return not reply.get("deleted") and reply.get("review_result") is not False


def _ranked(path: list[Message], replies: list[dict[str, Any]]) -> Record | Unusable:
    """Make a record of those answers that have a rank, best first (rank 0)."""
    ranked = sorted(
        (r for r in replies if type(r.get("rank")) in (int, float)), key=lambda r: float(r["rank"])
    )
    if len(ranked) < 2:
        return Unusable("unranked", f"{len(replies)} answers, of which {len(ranked)} ranked")
    answers: list[Text] = [[{"role": "assistant", "content": text(r, "text")}] for r in ranked]
    return ranked_of(path, answers)


READ = tuple(
    f"prompt{of}.{key}"
    for of in ("", ".replies[]")
    for key in ("message_id", "parent_id", "role", "rank")
)
FORMATS = (
    Adapter("oasst-tree", {"message_tree_id": "text", "prompt": "object"}, tree, reads=READ),
    Adapter(
        "oasst-flat",
        {"message_id": "text", "text": "text", "role": "text", "parent_id": "text|null"},
        tree,
        gather=gather_trees,
        reads=READ,
    ),
)
