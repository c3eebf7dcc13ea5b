"""Places of tokens that follow from the vocabulary are those that the tokenizer gives."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from tokenizers import processors as post
from tokenizers.trainers import BpeTrainer

from data_tools.rendering import places
from data_tools.rendering.places import Located, locate, ranges, spelling_of

Change = Callable[[Tokenizer], None]
SPECIAL = ["<|bos|>", "<|im_start|>", "<|im_end|>", "<｜end▁of▁turn｜>"]
PIECES = [
    *SPECIAL, "<tool>", "a", "Hello", " world", "it's", "  ", " ", "\n\n", "\t", "\u00a0", "\u3000",
    "二加二等于四。", "e\u0301", "é", "A\u030a", "\u212b", "한국", "\u1112\u1161\u11ab", "🙂",
    "👩\u200d👧", "🇨🇳", "ﬁ", "ＡＢ", "Ġ", "▁", "\u200b", "\x00", "\ufffd", "12345", "<tool",
    "im_end|>", "𝔘",
]  # fmt: skip
TEXTS = st.lists(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join),
    min_size=1,
    max_size=6,
)
SPLIT = "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"


def _qwen(tokenizer: Any) -> None:
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = post.ByteLevel(trim_offsets=False)


def _llama3(tokenizer: Any) -> None:
    begin = post.TemplateProcessing(
        "<|bos|> $A <|im_end|>", None, [("<|bos|>", 0), ("<|im_end|>", 2)]
    )
    tokenizer.post_processor = post.Sequence([post.ByteLevel(trim_offsets=False), begin])


def _trimmed(tokenizer: Any) -> None:
    trimming = post.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.post_processor = post.Sequence([trimming])


def _roberta(tokenizer: Any) -> None:
    tokenizer.post_processor = post.RobertaProcessing(("<|im_end|>", 2), ("<|bos|>", 0))


def _prefixed(tokenizer: Any) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def _lower(tokenizer: Any) -> None:
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])


def _greedy(tokenizer: Any) -> None:
    tokenizer.add_tokens(
        [
            AddedToken("<tool>", lstrip=True, rstrip=True),
            AddedToken("Hello", single_word=True),
            AddedToken("é", normalized=True),
        ]
    )


def _greedy_and_prefixed(tokenizer: Any) -> None:
    _greedy(tokenizer)
    _prefixed(tokenizer)


CHANGES: dict[str, Change] = {
    "gpt2": lambda _: None,
    "qwen": _qwen,
    "llama3": _llama3,
    "trimmed": _trimmed,
    "roberta": _roberta,
    "prefixed": _prefixed,
    "lower": _lower,
    "greedy": _greedy,
    "greedy and prefixed": _greedy_and_prefixed,
}


@cache
def make(name: str) -> Tokenizer:
    """A byte-level BPE of about 400 tokens, changed as a family of models does."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(PIECES[::2])] * 3, trainer)
    CHANGES[name](tokenizer)
    return tokenizer


def as_lists(found: list[Located]) -> list[tuple[list[int], list[int], list[int]]]:
    return [(one.ids, one.starts.tolist(), one.ends.tolist()) for one in found]


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=100, deadline=None)
@given(texts=TEXTS, adds_special=st.booleans())
def test_places_are_those_of_the_tokenizer(name: str, texts: list[str], adds_special: bool) -> None:
    encoder = make(name)
    quick = locate(encoder, spelling_of(encoder), texts, adds_special=adds_special)
    assert as_lists(quick) == as_lists(locate(encoder, None, texts, adds_special=adds_special))
    for one, encoding in zip(
        quick, encoder.encode_batch(texts, add_special_tokens=adds_special), strict=True
    ):
        assert one.ids == encoding.ids
        places = list(zip(one.starts.tolist(), one.ends.tolist(), strict=True))
        for place, offsets, is_own in zip(
            places, encoding.offsets, encoding.special_tokens_mask, strict=True
        ):
            assert place[0] == place[1] if is_own else place == offsets


@pytest.mark.parametrize(
    ("name", "text", "asked"),
    [
        ("gpt2", "Hello world e\u0301 🙂 二加二<|im_end|>\n<｜end▁of▁turn｜>", 0),
        ("qwen", "Hello world é 🙂 二加二<|im_end|>\n", 0),
        ("qwen", "Hello e\u0301", 1),  # NFC makes one character of it
        ("llama3", "Hello 🙂", 0),
        ("prefixed", "Hello", 1),
        ("prefixed", " Hello", 0),
        ("lower", "Hello", 1),
        ("lower", "hello", 0),
        ("greedy", "a <tool> b", 1),  # the token takes the spaces next to it
        ("greedy", "a<tool>b Hello é", 0),
        ("greedy and prefixed", "a <tool>", 1),  # one space more, one less
    ],
)
def test_the_tokenizer_is_asked_only_for_a_text_that_its_ids_do_not_spell(
    name: str, text: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, found = make(name), []
    by_offsets = places._by_offsets
    monkeypatch.setattr(places, "_by_offsets", lambda one: found.append(one) or by_offsets(one))
    locate(encoder, spelling_of(encoder), [text, "a", ""], adds_special=True)
    assert len(found) == asked + (name in ("prefixed", "greedy and prefixed"))


def test_a_vocabulary_whose_places_do_not_follow_has_no_spelling() -> None:
    assert spelling_of(make("trimmed")) is None
    assert spelling_of(make("roberta")) is None
    assert spelling_of(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_range_has_the_tokens_that_overlap_a_span(data: st.DataObject) -> None:
    texts = data.draw(TEXTS)
    located = locate(make("gpt2"), None, texts, adds_special=False)
    edge = [st.integers(0, len(text)) for text in texts]
    spans = [
        data.draw(st.lists(st.tuples(at, at).map(lambda pair: tuple(sorted(pair))), max_size=4))
        for at in edge
    ]
    for one, own, found in zip(located, spans, ranges(located, spans), strict=True):
        offsets = list(zip(one.starts.tolist(), one.ends.tolist(), strict=True))
        for (start, end), (first, last) in zip(own, found, strict=True):
            wanted = [
                i for i, (begin, until) in enumerate(offsets) if max(start, begin) < min(end, until)
            ]
            assert list(range(first, last)) == wanted


def test_a_span_that_ends_in_the_midst_of_tokens_has_all_of_its_last_character() -> None:
    (one,) = locate(make("gpt2"), None, ["a🚀b"], adds_special=False)
    assert one.starts.tolist().count(1) > 1
    assert ranges([one], [[(0, 2), (1, 2), (2, 3)]]) == [
        [(0, len(one.ids) - 1), (1, len(one.ids) - 1), (len(one.ids) - 1, len(one.ids))]
    ]
