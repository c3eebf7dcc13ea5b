"""A conversation as the text that a model reads, and the spans of it that each turn wrote.

The chat template decides the text. The span of an assistant turn is what the model has to write:
from the end of the generation prompt to the end of the template's end-of-turn token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from alignment.errors import ConfigError
from data_tools.formats import Message, Unusable
from data_tools.rendering.templates import (
    CLOSE,
    OPEN,
    REASONING,
    TEMPLATE_ERRORS,
    Counted,
    hidden_part,
    marks_generation,
)

if TYPE_CHECKING:
    from data_tools.rendering.places import Span
    from data_tools.rendering.tokenizer import ModelTokenizer

_MARKS = re.compile(f"([{OPEN}{CLOSE}])")
#: Stands for the content of a turn while its place is looked for; reserved like the marks.
_PROBE = "\ufdd2\ufdd3"
_RESERVED = re.compile("[\ufdd0-\ufdd3]")
#: Keys of a turn that say whether it carries loss; no template reads them.
LOSS_KEYS = ("weight", "loss", "train")


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
        text: What the model reads.
        turns: For each assistant turn asked for, its index and the span `[start, end)` of `text`
            that the model writes.
    """

    text: str
    turns: tuple[tuple[int, Span], ...]


class ChatTemplate:
    """The chat template of a tokenizer, applied in one place.

    Args:
        tokenizer: Gives the template and the special tokens that it names.
        variables: Further variables of the template (`enable_thinking`, ...); a row's own
            `chat_template_kwargs` override them.

    Raises:
        ConfigError: If the template cannot be parsed.
    """

    def __init__(
        self, tokenizer: ModelTokenizer, variables: Mapping[str, Any] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.variables = dict(variables or {})
        self.marks = marks_generation(tokenizer.template)
        self._environment = Counted()
        try:
            self._template = self._environment.from_string(tokenizer.template)
            self._names = self._environment.names(tokenizer.template)
        except TemplateError as error:
            raise ConfigError(
                f"{tokenizer.name}: the chat template cannot be read: {error}",
                "fetch the model again, or name another one: --chat_template",
            ) from error

    def check_reads(self, turns: Sequence[Message], tools: Any) -> None:
        """See that the template reads the tools, calls and thoughts of a row.

        Raises:
            Unusable: If it would leave them out; `template`.
        """
        hidden = hidden_part(self._names, turns, tools)
        if hidden:
            raise Unusable(
                "template",
                f"the chat template does not read {hidden}",
                "use a template that does: --chat_template FILE",
            )

    def ignored(self, variables: Mapping[str, Any]) -> list[str]:
        """Which variables of a row the template never reads."""
        return [name for name in variables if name not in self._names]

    def text(
        self,
        turns: Sequence[Message],
        *,
        opened: bool = False,
        tools: Any = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render turns; `opened` adds the generation prompt.

        Raises:
            Unusable: If the template refuses the turns; `template`.
        """
        return _MARKS.sub("", self._render(turns, opened, tools, variables))

    def render(
        self,
        turns: Sequence[Message],
        *,
        first: int = 0,
        tools: Any = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """Render a conversation and find the spans of its assistant turns from `first` on.

        Spans come from the generation marks of the template if it has them, else from the prefix
        property: what is rendered before a turn, with the generation prompt, is how the whole text
        begins. Templates that show earlier turns in another way (Qwen3 drops their reasoning) break
        that property; then the place of a turn is found by rendering it with other content. Each
        way checks its result against the text.

        Raises:
            Unusable: If the template refuses the turns, or the place of a turn is unknown;
                `template`.
        """
        check_reserved(turns)
        marked = self._render(turns, False, tools, variables)
        text = _MARKS.sub("", marked)
        wanted = [i for i in range(first, len(turns)) if turns[i]["role"] == "assistant"]
        if self.marks:
            every = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
            spans = [self._to_end_of_turn(text, span) for span in _marked_spans(marked)]
            if len(spans) == len(every):  # else the template marks no or several parts of a turn
                found = [(i, span) for i, span in zip(every, spans, strict=True) if i >= first]
                return _checked(turns, text, found)
        find = _TurnFinder(self, turns, text, tools, variables)
        return _checked(turns, text, [(i, find.span(i)) for i in wanted])

    @cached_property
    def end_of_turn(self) -> str:
        """The special token with which the template ends an assistant turn; empty if it has none.

        Raises:
            Unusable: If the template refuses a question with an answer; `template`.
        """
        # rendered, since no file of a model names this token reliably: eos_token may be another
        asked = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        tail = self.text(asked).partition(_PROBE)[2]
        found = (token for token in self.tokenizer.special_texts if tail.lstrip().startswith(token))
        return next(found, "")

    def _render(self, turns: Sequence[Message], opened: bool, tools: Any, variables: Any) -> str:
        given = {**self.variables, **(variables or {})}
        plain = [_plain_turn(turn) for turn in turns]
        try:
            return self._environment.render(
                self._template,
                messages=plain,
                add_generation_prompt=opened,
                tools=tools or None,
                documents=None,
                **{**self.tokenizer.special, **given},
            )
        except TEMPLATE_ERRORS as error:
            why = str(error) or "it needs more memory than there is"
            raise Unusable(
                "template",
                f"the chat template refuses this row: {why}",
                "check the roles of its turns",
            ) from error

    def _to_end_of_turn(self, text: str, span: Span) -> Span:
        """Extend a marked span by the end-of-turn token if the mark leaves it out."""
        start, end = span
        token = self.end_of_turn
        if token and token not in text[start:end]:
            rest = text[end:]
            blank = len(rest) - len(rest.lstrip())
            if rest[blank:].startswith(token):
                end += blank + len(token)
        return start, end


class _TurnFinder:
    """Finds the spans of assistant turns in a rendered conversation."""

    def __init__(
        self,
        template: ChatTemplate,
        turns: Sequence[Message],
        text: str,
        tools: Any,
        variables: Any,
    ) -> None:
        self.template, self.turns, self.text = template, list(turns), text
        self.given = {"tools": tools, "variables": variables}

    def span(self, i: int) -> Span:
        """The span of turn `i`."""
        start, end = self._start_by_prefix(i), self._end_by_prefix(i)
        if start is None or end is None:
            content = self._content(i)
            if content is not None:
                start = self._start_by_content(i, content) if start is None else start
                end = self._end_by_content(i, content) if end is None else end
        # a guess would put loss on the user's text
        if start is None or end is None or start > end:
            raise Unusable(
                "template",
                f"the chat template hides where turn {i + 1} (assistant) begins or ends, so its "
                "loss mask is unknown",
                "use a template with {% generation %} marks: --chat_template FILE",
            )
        return start, end

    def _start_by_prefix(self, i: int) -> int | None:
        opened = self._rendered(self.turns[:i], opened=True) if i else None
        if opened is None:
            return None
        if self.text.startswith(opened):
            return len(opened)
        # A generation prompt may open a block that this row does not have (`<think>`): then the
        # turn begins where the two differ, as in TRL.
        closed = self._rendered(self.turns[:i])
        # The content, which may begin as that block does, must not decide where.
        probed = self._with_probe(self.turns, i) or opened
        begin = min(_common_prefix(opened, self.text), _common_prefix(opened, probed))
        if closed is None or not self.text.startswith(closed) or begin <= len(closed):
            return None
        return begin

    def _end_by_prefix(self, i: int) -> int | None:
        if i + 1 == len(self.turns):
            return len(self.text)
        end = self._rendered(self.turns[: i + 1])
        return len(end) if end is not None and self.text.startswith(end) else None

    def _content(self, i: int) -> Span | None:
        """Where the content of a turn is: the only part that changes if its content does."""
        return _changed(self.text, self._with_probe(self.turns, i))

    def _start_by_content(self, i: int, content: Span) -> int | None:
        prompts = list(self._generation_prompts(i))
        for prompt in prompts:
            start = self.text.rfind(prompt, 0, content[0])
            if start >= 0:
                return start + len(prompt)
        if prompts:
            return None
        lead = self._lead(i)  # Mistral's template has no generation prompt
        return content[0] - len(lead) if self.text[: content[0]].endswith(lead) else content[0]

    def _lead(self, i: int) -> str:
        """What stands between a question and the content of turn `i`, if nothing is before them."""
        alone = [{"role": "user", "content": "?"}, self.turns[i]]
        opened, text = self._rendered(alone[:1], opened=True), self._rendered(alone)
        content = _changed(text, self._with_probe(alone, 1))
        if opened is None or text is None or content is None or not text.startswith(opened):
            return ""
        return text[len(opened) : content[0]]

    def _end_by_content(self, i: int, content: Span) -> int | None:
        """What follows the content if this turn is the last, as far as it follows here too."""
        alone = self._rendered(self.turns[: i + 1])
        within = _changed(alone, self._with_probe(self.turns[: i + 1], i))
        if alone is None or within is None:
            return None
        tail, token = alone[within[1] :], self.template.end_of_turn
        shared = tail[: _common_prefix(tail, self.text[content[1] :])]
        if token:  # after it, what follows the last turn only (Phi-3's EOS) may begin like the next
            before, found, after = shared.partition(token)
            blank = len(after) - len(after.lstrip())
            return content[1] + len(before) + len(token) + blank if found else None
        return content[1] + len(shared) if shared or not tail.strip() else None

    def _generation_prompts(self, i: int) -> Iterator[str]:
        """What may stand before the turn: the generation prompt, whole and then line by line."""
        asked = self.turns[:i] or [{"role": "user", "content": "?"}]
        closed, opened = self._rendered(asked), self._rendered(asked, opened=True)
        if closed is None or opened is None:
            return
        lines = opened[_common_prefix(closed, opened) :].splitlines(keepends=True)
        for count in range(len(lines), 0, -1):
            yield "".join(lines[:count])

    def _with_probe(self, turns: list[Message], i: int) -> str | None:
        changed = {key: value for key, value in turns[i].items() if key not in REASONING}
        return self._rendered([*turns[:i], {**changed, "content": _PROBE}, *turns[i + 1 :]])

    def _rendered(self, turns: list[Message], *, opened: bool = False) -> str | None:
        try:
            return self.template.text(turns, opened=opened, **self.given)
        except Unusable:  # a part of a conversation may be none: [system] alone, for instance
            return None


def check_reserved(turns: Sequence[Message]) -> None:
    """See that no turn holds the characters that mark places in a text.

    Raises:
        Unusable: If one does; `template`.
    """
    if any(_RESERVED.search(turn["content"]) for turn in turns):
        raise Unusable("template", "a turn holds U+FDD0 to U+FDD3, which Unicode reserves")


def _checked(turns: Sequence[Message], text: str, found: list[tuple[int, Span]]) -> Rendered:
    for i, (start, end) in found:
        _check_content(turns[i], i, text[start:end])
    return Rendered(text, tuple(found))


def _check_content(turn: Message, i: int, written: str) -> None:
    """See that a template shows the end of an answer; those of vision models drop plain text."""
    answer = turn["content"].rpartition("</think>")[2]  # thoughts of earlier turns may be left out
    end = answer.rsplit(None, 1)[-1:]
    if end and end[0] not in written:
        raise Unusable(
            "template",
            f"the chat template drops the text of turn {i + 1} (assistant)",
            "use a template for text: --chat_template FILE",
        )


def carries_loss(turn: Message) -> bool:
    """Whether a turn's own keys (`weight`, `loss`, `train`) let it carry loss."""
    return all(turn[key] is None or bool(turn[key]) for key in LOSS_KEYS if key in turn)


def _plain_turn(turn: Message) -> Message:
    """A turn as transformers hands it to a template: no null keys, reasoning under each name."""
    plain = {k: v for k, v in turn.items() if v is not None and k not in LOSS_KEYS}
    reasoning = next((plain[key] for key in REASONING if key in plain), None)
    if reasoning is None:
        return plain
    return {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _marked_spans(marked: str) -> Iterator[Span]:
    """The spans between generation marks, as places in the text without marks."""
    at = begin = 0
    for piece in _MARKS.split(marked):
        if piece == OPEN:
            begin = at
        elif piece == CLOSE:
            yield begin, at
        else:
            at += len(piece)


def _changed(text: str | None, other: str | None) -> Span | None:
    """The part of `text` in which it differs from `other`."""
    if text is None or other is None or _PROBE not in other:
        return None
    start = _common_prefix(text, other)
    room = min(len(text), len(other)) - start
    end = len(text) - _common_prefix(text[::-1], other[::-1], room)
    return start, end


def _common_prefix(one: str, other: str, limit: int | None = None) -> int:
    limit = min(len(one), len(other)) if limit is None else limit
    low, high = 0, limit
    while low < high:  # bisection: comparing slices is quicker than a loop over characters
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
