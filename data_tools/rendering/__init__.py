"""Rows as a model sees them: chat template, tokens, loss mask."""

from data_tools.rendering.conversation import ChatTemplate
from data_tools.rendering.named import known_templates, named_template
from data_tools.rendering.render import Renderer, Spoken, Tokens, count_roles
from data_tools.rendering.tokenizer import ModelTokenizer, from_transformers, read_tokenizer

__all__ = [
    "ChatTemplate",
    "ModelTokenizer",
    "Renderer",
    "Spoken",
    "Tokens",
    "count_roles",
    "from_transformers",
    "known_templates",
    "named_template",
    "read_tokenizer",
]
