"""Open Assistant: trees of messages, nested or flat, in which people ranked the answers."""

from collections.abc import Iterable, Iterator
from typing import Any

from data_tools.formats.record import Adapter, Data, Message, Record, Text, Unusable, fields, text
from data_tools.formats.turns import ROLES, ranked_of
from data_tools.reading import Row


def tree(data: Data) -> list[Record | Unusable]:
    """Open Assistant: a record per message with ranked answers; the prompt is the path to it."""
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
    nodes: dict[str, dict[str, Any]] = {}
    roots: list[Row] = []
    for row in rows:
        node = {**row.data, "replies": []}
        nodes[str(node.get("message_id"))] = node
        if node.get("parent_id") is None:
            roots.append(Row(row.source, row.number, row.start, {"prompt": node}))
    for node in nodes.values():
        parent = nodes.get(str(node.get("parent_id")))
        # an orphan or a message that is its own parent is in no tree
        if parent is not None and parent is not node:
            parent["replies"].append(node)
    yield from roots


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


FORMATS = (
    Adapter("oasst-tree", {"message_tree_id": "text", "prompt": "object"}, tree),
    Adapter(
        "oasst-flat",
        {"message_id": "text", "text": "text", "role": "text", "parent_id": "text|null"},
        tree,
        gather=gather_trees,
    ),
)
