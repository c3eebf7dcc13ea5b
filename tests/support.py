"""What tests share: where the repository is, a tokenizer made in memory, rows in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignment.data.rows import StageRows

REPOSITORY = Path(__file__).resolve().parent.parent

#: Seconds after which a process hangs, however slow the machine; pytest ends a test at 600, and
#: then without what the process printed.
PATIENCE = 500

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "What is two plus two? It is four.",
    "Say hello. Hello, how are you?",
    "二加二等于几？等于四。",
    "请说你好。你好，很高兴见到你。",
]


def make_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE of 320 tokens with ChatML markers; pad differs from eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def prepare_rows(
    stage: str, model: Path, data: Iterable[Path], *flags: str
) -> tuple[StageRows, dict[str, Any]]:
    """The prepared rows of a stage, and its settings."""
    from alignment.data.rows import prepare_stage
    from alignment.registry import STAGES
    from alignment.settings.resolve import resolve

    words = ["--model_name_or_path", str(model), "--train_data", *map(str, data), "--use_cpu"]
    values = resolve(stage, [*words, *flags]).values
    return prepare_stage(STAGES[stage], values), values
