"""Tiny bilingual models made on the spot, for demos, tests and dry runs without a network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Numerals are tokens of their own, digit by digit in both scripts: a model that sees 58 as 5 and 8
# can learn place value from few examples. Scripts part, so that no token spans two languages.
NUMERAL = r"[零一二三四五六七八九十百千万亿两]|\p{N}"
WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Preset:
    """The shape of one tiny model.

    Wide and shallow: two layers are what copying needs, and on a CPU a few large products cost less
    than many small ones. Weights start at 1 / sqrt(hidden_size); with the usual 0.02, meant for
    widths in the thousands, so small a model takes twice as many steps to begin to learn.
    """

    architecture: str
    hidden_size: int = 256
    intermediate_size: int = 256
    layers: int = 2
    heads: int = 4
    vocab_size: int = 1024
    context: int = 512


PRESETS = {
    "tiny": Preset("qwen3"),
    "tiny-llama": Preset("llama"),
}


def init_model(
    preset: str,
    output_dir: Path,
    *,
    corpus: Iterable[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a randomly initialised model and its tokenizer, ready for `from_pretrained`.

    Equal arguments write equal bytes.

    Args:
        preset: A key of `PRESETS`.
        output_dir: Folder to write; made where it is missing.
        corpus: Texts to train the tokenizer on; the demo's own text if not given.
        seed: Seed of the weights.
        overwrite: Write into a folder that already holds something.

    Returns:
        `output_dir`.

    Raises:
        ConfigError: The preset is unknown, or the folder is in use.
    """
    shape = find_preset(preset)
    if not overwrite and output_dir.exists():
        if not output_dir.is_dir():
            raise ConfigError(f"{output_dir} is a file, not a folder", "name another output folder")
        if any(output_dir.iterdir()):
            raise ConfigError(
                f"{output_dir} is not empty", "name another output folder, or pass --overwrite"
            )
    if corpus is None:
        from alignment.demo.rows import tokenizer_corpus

        corpus = tokenizer_corpus()
    tokenizer = build_tokenizer(corpus, vocab_size=shape.vocab_size)
    model = build_model(shape, tokenizer, seed=seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return output_dir


def find_preset(name: str) -> Preset:
    """Look a preset up by its name.

    Raises:
        ConfigError: There is no such preset; the message names the nearest.
    """
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise ConfigError(f"unknown preset {name!r}", f"{hint}presets: {', '.join(PRESETS)}")


def build_tokenizer(corpus: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE with ChatML markers; pad, start and end are three tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(NUMERAL), "isolated"),
            pre_tokenizers.Split(Regex(r"\p{Han}+"), "isolated"),
            pre_tokenizers.Split(Regex(WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(shape: Preset, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    """Make a model of the preset's shape with seeded random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        shape.architecture,
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden_size // shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        initializer_range=shape.hidden_size**-0.5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
