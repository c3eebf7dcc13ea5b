"""Only `data_tools.rendering` renders and tokenises rows: everything else asks it."""

import ast
from collections.abc import Iterator
from pathlib import Path

from support import REPOSITORY

FOLDERS = ("alignment", "data_tools", "recipes")
RENDERING = REPOSITORY / "data_tools" / "rendering"
#: Names whose call, or whose methods below, make token ids.
TOKENIZERS = ("tokenizer", "processing_class", "encoder", "processor")
METHODS = (
    "encode",
    "encode_plus",
    "encode_batch",
    "encode_batch_fast",
    "batch_encode_plus",
    "tokenize",
)
#: Functions that return a tokenizer.
LOADERS = ("load_", "read_", "light_", "build_")
#: What the tests of the detector must find, and what it must leave alone.
GUILTY = """
tokenizer.apply_chat_template(turns)
apply_chat_template(row, tokenizer)
self.tokenizer(text)
self._tokenizer(text, return_tensors="pt")
args.processing_class(text=text)
reward_tokenizer(text)
renderer.tokenizer.encoder.encode_batch(texts)
tokenizer.encode(text)
"""
INNOCENT = """
text.encode()
load_tokenizer(path)
self.renderer.encode(spoken)
tokenizer.decode(ids)
tokenizer.add_tokens(tokens)
from_transformers(tokenizer)
"""


def name_of(node: ast.expr) -> str:
    """The last name of an expression: `tokenizer` of `self.tokenizer`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_tokenizer(node: ast.expr) -> bool:
    name = name_of(node).lstrip("_")
    return name.endswith(TOKENIZERS) and not name.startswith(LOADERS)


def encodings(source: str) -> Iterator[str]:
    """The calls of a module that render a conversation or make token ids."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if (
            name_of(called) == "apply_chat_template"
            or is_tokenizer(called)
            or (
                isinstance(called, ast.Attribute)
                and called.attr in METHODS
                and is_tokenizer(called.value)
            )
        ):
            yield ast.unparse(node)


def modules() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in (REPOSITORY / folder).rglob("*.py"):
            if not path.is_relative_to(RENDERING):
                yield path


def test_the_detector_finds_each_way_to_make_ids() -> None:
    guilty = [line for line in GUILTY.splitlines() if line]
    assert [list(encodings(line)) != [] for line in guilty] == [True] * len(guilty)
    assert list(encodings(INNOCENT)) == []


def test_only_one_package_renders_and_tokenises() -> None:
    found = {
        str(path.relative_to(REPOSITORY)): calls
        for path in modules()
        if (calls := list(encodings(path.read_text(encoding="utf-8"))))
    }
    assert found == {}
