"""A row as the model sees it: its text, its tokens, and which of them carry loss.

This is the one place that turns a record into token ids. The trainers, the counts before training,
`align data show`, `align plan`, the longest batch, `align eval`, `align data reject` and the
prompts of PPO all ask it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from tokenizers import Tokenizer

from alignment.errors import ConfigError
from data_tools.formats import Message, Record, Text, Unusable, as_messages
from data_tools.rendering.conversation import ChatTemplate, carries_loss, check_reserved
from data_tools.rendering.places import Located, Span, locate, ranges

if TYPE_CHECKING:
    from data_tools.rendering.tokenizer import ModelTokenizer

Loss: TypeAlias = Literal["assistant", "last", "all"]
LOSSES: tuple[Loss, ...] = ("assistant", "last", "all")
#: Texts in one call from which places of tokens are derived from the vocabulary.
_MANY = 32


class Part(NamedTuple):
    """A stretch `[start, end)` of a text that one role wrote.

    The stretches of a text do not overlap; what lies between them is the template's.
    """

    role: str
    start: int
    end: int


class Spoken(NamedTuple):
    """One sequence as text.

    Attributes:
        text: What the model reads.
        loss: The spans `[start, end)` of `text` that carry loss, in order.
        answer: Where the answer begins: what stands before it is the prompt. 0 if there is none.
        parts: Who wrote what, for the report of loss by role.
        plain: No template was used, so the tokenizer adds its own special tokens.
    """

    text: str
    loss: tuple[Span, ...]
    answer: int = 0
    parts: tuple[Part, ...] = ()
    plain: bool = False


class Tokens(NamedTuple):
    """One sequence as token ids.

    Attributes:
        place: All of them, each with its place in the text.
        loss: Ranges `[first, last)` of tokens that carry loss, in order.
        answer: The first token of the answer.
        by_role: Tokens by the role that wrote them, with `template` for the rest.
        encoder: The tokenizer, which knows what each id is called.
    """

    place: Located
    loss: tuple[tuple[int, int], ...]
    answer: int
    by_role: Mapping[str, int]
    encoder: Tokenizer

    @property
    def ids(self) -> list[int]:
        """The ids of all of them."""
        return self.place.ids

    def mask(self, start: int = 0) -> list[bool]:
        """Whether each token from `start` on carries loss."""
        found = [False] * len(self.ids)
        for first, last in self.loss:
            found[first:last] = [True] * (last - first)
        return found[start:]

    def check_embeddings(self, count: int | None) -> None:
        """See that a model with `count` embeddings has one for each token; None: unknown.

        Raises:
            Unusable: If it has not; `no_embedding`.
        """
        largest = max(self.ids, default=0)
        if count is not None and largest >= count:
            token = self.encoder.id_to_token(largest)
            raise Unusable(
                "no_embedding",
                f"the tokenizer makes {token!r} token {largest}, and the model has {count} "
                "embeddings",
                "use the model's own tokenizer, or resize its embeddings first",
            )


class Renderer:
    """Turns records into text and tokens, with a model's tokenizer and chat template.

    Args:
        tokenizer: The model's.
        as_chat: Whether text is wrapped as turns of a conversation; None: if there is a template.
        loss_on: Which turns carry loss: those of the assistant, the last of them, or all tokens.
        variables: Variables for the chat template, for every row.

    Raises:
        ConfigError: If the template cannot be parsed.
    """

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        *,
        as_chat: bool | None = None,
        loss_on: Loss = "assistant",
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, variables) if tokenizer.template else None
        self.as_chat = self.template is not None if as_chat is None else as_chat
        self.loss_on = loss_on
        # the last prompt rendered: the two sides of a pair ask for the same one
        self._asked: tuple[list[Message], Mapping[str, Any], str] = ([], {}, "")
        self.variables = dict(variables or {})

    def sequences(self, record: Record) -> dict[str, Spoken]:
        """Every sequence that the model reads of a record, by name.

        A pair has two, `chosen` and `rejected`; every other kind has one, named by what it holds.

        Raises:
            Unusable: If the template refuses the row, or does not read its tools or thoughts.
            ConfigError: If there are turns and no template.
        """
        self._check_reads(record)
        if record.kind == "preference":
            return {
                "chosen": self.answer(record, record.prompt, record.chosen),
                "rejected": self.answer(record, record.prompt, record.rejected),
            }
        if record.kind == "text":
            return {"text": self.text(record.text)}
        if record.kind == "prompt":
            return {"prompt": self.prompt(record.prompt, record)}
        if record.messages is not None:
            return {"messages": self.conversation(record, record.messages)}
        return {"completion": self.answer(record, record.prompt, record.completion)}

    def _check_reads(self, record: Record) -> None:
        """See that nothing of a row that changes what is learned is left out by the template."""
        parts = (record.prompt, record.chosen, record.rejected, record.completion)
        turns = [
            turn
            for part in (*parts, record.messages or "")
            if not isinstance(part, str)
            for turn in part
            # more than role and content: only such a turn can hold a part that is left out
            if len(turn) > 2
        ]
        if turns or record.tools:
            self._needed_template().check_reads(turns, record.tools)

    def ignored(self, record: Record) -> tuple[str, ...]:
        """The template variables of a row that the template never reads, as `column.name`."""
        if not record.template_kwargs or self.template is None:
            return ()
        names = self.template.ignored(record.template_kwargs)
        return tuple(f"chat_template_kwargs.{name}" for name in names)

    def wrapped(self, record: Record) -> Record:
        """The record with a text prompt as a turn of the user, if text is wrapped as turns.

        This is the prompt that reward functions see.
        """
        if not self.as_chat or not record.prompt or not isinstance(record.prompt, str):
            return record
        return replace(record, prompt=as_messages(record.prompt, "user"))

    def text(self, text: str) -> Spoken:
        """Plain text to continue from; every token carries loss."""
        text = self._ended(text)
        return Spoken(text, ((0, len(text)),), parts=(Part("text", 0, len(text)),), plain=True)

    def answer(self, record: Record, prompt: Text, answer: Text) -> Spoken:
        """A prompt with an answer; loss is on the answer alone.

        Raises:
            Unusable: If the template refuses the row, or there is none for its turns.
        """
        if isinstance(prompt, str) and isinstance(answer, str) and not self.as_chat:
            text = prompt + self._ended(answer)
            start = 0 if self.loss_on == "all" else len(prompt)
            parts = (Part("user", 0, len(prompt)), Part("assistant", len(prompt), len(text)))
            return Spoken(text, ((start, len(text)),), len(prompt), parts, plain=True)
        asked = as_messages(prompt, "user")
        turns = [*asked, *as_messages(answer, "assistant")]
        return self._conversation(record, turns, first=len(asked))

    def conversation(self, record: Record, turns: list[Message]) -> Spoken:
        """A conversation; every assistant turn carries loss.

        Raises:
            Unusable: If the template refuses the row, or there is none.
        """
        return self._conversation(record, turns, first=0)

    def prompt(self, prompt: Text, record: Record | None = None) -> Spoken:
        """A prompt up to where the answer begins; nothing carries loss.

        A prompt that ends with a turn of the assistant is an answer to continue: it ends with the
        content of that turn.

        Raises:
            Unusable: If the template refuses the row, or there is none for its turns.
        """
        if isinstance(prompt, str) and not self.as_chat:
            return Spoken(prompt, (), len(prompt), plain=True)
        template, turns = self._needed_template(), as_messages(prompt, "user")
        check_reserved(turns)
        if turns[-1]["role"] == "assistant":
            text, content = template.text(turns, **_given(record)), turns[-1]["content"].strip()
            text = text[: text.rfind(content) + len(content)]
        else:
            text = template.text(turns, opened=True, **_given(record))
        return Spoken(text, (), len(text))

    def encode(self, spoken: Sequence[Spoken]) -> list[Tokens]:
        """Token ids of many sequences; the tokenizer works in parallel with other threads."""
        found: list[Located | None] = [None] * len(spoken)
        tokenizer = self.tokenizer
        for plain in (False, True):
            chosen = [i for i, one in enumerate(spoken) if one.plain is plain]
            if not chosen:
                continue
            # for few texts, reading the vocabulary takes longer than it saves
            spelling = tokenizer.spelling if len(chosen) >= _MANY else None
            texts = [spoken[i].text for i in chosen]
            # a chat template writes special tokens itself; plain text gets the tokenizer's
            located = locate(tokenizer.encoder, spelling, texts, adds_special=plain)
            for i, one in zip(chosen, located, strict=True):
                found[i] = one
        places = [one for one in found if one is not None]
        return [
            _tokens(one, place, where, tokenizer.encoder)
            for one, place, where in zip(
                spoken, places, ranges(places, [_spans(one) for one in spoken]), strict=True
            )
        ]

    def _conversation(self, record: Record, turns: list[Message], *, first: int) -> Spoken:
        template = self._needed_template()
        given = _given(record)
        text, found = template.render(turns, first=first, **given)
        spans = dict(found)
        begins = found[0][1][0] if found else len(text)
        if first:
            begins = self._border(turns[:first], text, begins, given)
            # of a prompt with its answer, all that follows the prompt is the answer's, as in TRL
            if first in spans:
                spans[first] = begins, spans[first][1]
            if len(turns) - 1 in spans:
                spans[len(turns) - 1] = spans[len(turns) - 1][0], len(text)
        parts = _parts(text, turns, spans)
        if self.loss_on == "all":
            silent = [spans[i] for i in sorted(spans) if not carries_loss(turns[i])]
            return Spoken(text, _without(silent, len(text)), begins, parts)
        learned = [i for i in spans if carries_loss(turns[i])]
        if self.loss_on == "last":
            learned = [i for i in learned if i == max(spans)]
        return Spoken(text, tuple(spans[i] for i in learned), begins, parts)

    def _border(
        self, asked: list[Message], text: str, fallback: int, given: Mapping[str, Any]
    ) -> int:
        """Where the prompt ends in a text; both sides of a pair have the same prompt."""
        if self._asked[:2] != (asked, given):
            opening = self._needed_template().text(asked, opened=True, **given)
            self._asked = asked, given, opening
        opening = self._asked[2]
        return len(opening) if text.startswith(opening) else fallback

    def _needed_template(self) -> ChatTemplate:
        if self.template is None:
            raise ConfigError(
                f"{self.tokenizer.name}: its tokenizer has no chat template, and the rows are "
                "conversations",
                "name one: --chat_template chatml, a file or a model; or start from a chat model",
            )
        return self.template

    def _ended(self, text: str) -> str:
        eos = self.tokenizer.eos
        return text if text.endswith(eos) else text + eos


def _without(silent: Sequence[Span], length: int) -> tuple[Span, ...]:
    """A text of some length without some spans of it, given in order."""
    edges = [0, *(edge for span in silent for edge in span), length]
    return tuple(span for span in zip(edges[::2], edges[1::2], strict=True) if span[0] < span[1])


def _given(record: Record | None) -> dict[str, Any]:
    return {
        "tools": record.tools if record else None,
        "variables": record.template_kwargs if record else None,
    }


def _parts(text: str, turns: Sequence[Message], spans: Mapping[int, Span]) -> tuple[Part, ...]:
    """Who wrote what; the content of other turns is found in the text between the answers."""
    parts: list[Part] = []
    at = 0
    for i, turn in enumerate(turns):
        if i in spans:
            start, end = spans[i]
        else:
            content = turn["content"].strip()
            start = text.find(content, at) if content else -1
            end = start + len(content)
        if start >= at:
            parts.append(Part(turn["role"], start, end))
            at = end
    return tuple(parts)


def _spans(spoken: Spoken) -> list[Span]:
    """The spans of a text whose tokens are asked for: those with loss, the parts, the answer."""
    parts = ((start, end) for _, start, end in spoken.parts)
    return [*spoken.loss, *parts, (spoken.answer, len(spoken.text))]


def _tokens(spoken: Spoken, place: Located, where: Sequence[Span], encoder: Tokenizer) -> Tokens:
    """One sequence as tokens; `where` has the tokens of its `_spans`."""
    ids, number = place.ids, len(spoken.loss)
    loss = tuple(span for span in where[:number] if span[0] < span[1])
    if spoken.plain and spoken.loss:  # the tokenizer's own tokens at the ends belong to the text
        first, last = loss[0] if loss else (len(ids), len(ids))
        loss = ((0 if spoken.loss[0][0] == 0 else first, max(last, len(ids))),)
    by_role: dict[str, int] = {}
    counted = total = 0
    for part, (first, last) in zip(spoken.parts, where[number:], strict=False):
        own = max(0, last - max(first, counted))  # a token may cover two parts
        by_role[part.role] = by_role.get(part.role, 0) + own
        counted, total = max(counted, last), total + own
    by_role["template"] = len(ids) - total
    first, last = where[-1]
    answer = 0 if not spoken.answer else first if first < last else len(ids)
    return Tokens(place, loss, answer, by_role, encoder)


def count_roles(tokens: Iterable[Tokens]) -> tuple[Counter[str], int]:
    """Tokens by role, and how many tokens carry loss."""
    by_role: Counter[str] = Counter()
    learned = 0
    for one in tokens:
        by_role.update(one.by_role)
        learned += sum(last - first for first, last in one.loss)
    return by_role, learned
