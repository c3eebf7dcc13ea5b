"""Chat templates that models ship, what each shows of an answer, and random conversations."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from data_tools import rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, Any]

_TRL = importlib.util.find_spec("trl")
assert _TRL is not None
assert _TRL.origin is not None
TRL_TEMPLATES = Path(_TRL.origin).parent / "chat_templates"
OUR_TEMPLATES = Path(rendering.__file__).parent / "chat_templates"

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
# The system turn goes into the last user turn, and only if nothing follows that one.
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}"
    "{%- endif %}{{- bos_token }}{%- for message in loop_messages %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('conversation roles must alternate') }}{%- endif %}"
    "{%- if message['role'] == 'user' %}{%- if loop.last and system_message is defined %}"
    "{{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content']|trim + eos_token }}"
    "{%- endif %}{%- endfor %}"
)
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
# The turn of the user opens that of the assistant.
YI = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}"
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n<|im_start|>assistant\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ content + '<|im_end|>' + '\\n' }}"
    "{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Case:
    """A template and what it makes of an answer.

    Attributes:
        template: Its text.
        answer: The text that the model writes for a turn, given whether the turn is the last.
        bos, eos: Special tokens of the tokenizer that comes with it.
        end: The token that ends a turn of the assistant; empty: the next turn does.
        has_system: Whether it takes a turn of the system.
        after: What it puts after the last turn.
    """

    template: str
    answer: Callable[[Turn, bool], str]
    eos: str
    end: str = ""
    bos: str = "<s>"
    has_system: bool = True
    after: str = ""


def _trl(name: str) -> str:
    return (TRL_TEMPLATES / f"{name}.jinja").read_text("utf-8")


def _ours(name: str) -> str:
    return (OUR_TEMPLATES / f"{name}.jinja").read_text("utf-8")


def _thought(turn: Turn) -> tuple[str, str]:
    """Reasoning and answer of a turn, as the templates of Qwen3 and GLM part them."""
    content = turn["content"]
    if "reasoning_content" in turn:
        return turn["reasoning_content"], content
    if "</think>" not in content:
        return "", content
    before, after = content.split("</think>")[0], content.split("</think>")[-1]
    return before.rstrip("\n").split("<think>")[-1].lstrip("\n"), after.lstrip("\n")


def _qwen3(turn: Turn, last: bool) -> str:
    thought, content = _thought(turn)
    if last:
        thought = thought.strip("\n")
        content = f"<think>\n{thought}\n</think>\n\n" + content.lstrip("\n")
    return content + "<|im_end|>\n"


def _glm(turn: Turn, last: bool) -> str:
    thought, content = _thought(turn)
    shown = thought.strip() if last and thought else ""
    return f"\n<think>{shown}</think>" + (f"\n{content.strip()}" if content.strip() else "")


def _deepseek(turn: Turn, _: bool) -> str:
    return str(turn["content"]).split("</think>")[-1] + "<｜end▁of▁sentence｜>"


def _ending(end: str, strips: bool = False, before: str = "") -> Callable[[Turn, bool], str]:
    def answer(turn: Turn, _: bool) -> str:
        content = turn["content"].strip() if strips else turn["content"]
        return f"{before}{content}{end}"

    return answer


_IM_END = "<|im_end|>"
CASES = {
    "chatml": Case(_ours("chatml"), _ending(_IM_END), _IM_END, _IM_END),
    "qwen2.5": Case(_trl("qwen2_5"), _ending("<|im_end|>\n"), "<|endoftext|>", _IM_END),
    "qwen3": Case(_trl("qwen3"), _qwen3, _IM_END, _IM_END),
    "llama2": Case(LLAMA2, _ending(" </s>", strips=True, before=" "), "</s>", "</s>"),
    "llama3": Case(
        _trl("llama3"), _ending("<|eot_id|>", strips=True), "<|end_of_text|>", "<|eot_id|>"
    ),
    "mistral": Case(MISTRAL, _ending("</s>", strips=True, before=" "), "</s>", "</s>"),
    "gemma": Case(
        _trl("gemma"), _ending("<end_of_turn>\n", strips=True), "<eos>", "<end_of_turn>",
        has_system=False,
    ),
    "deepseek": Case(
        _trl("deepseekv3"), _deepseek, "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    ),
    "phi3": Case(
        _trl("phi3"), _ending("<|end|>\n"), "<|endoftext|>", "<|end|>", after="<|endoftext|>"
    ),
    "zephyr": Case(ZEPHYR, _ending("</s>\n"), "</s>", "</s>"),
    "glm": Case(_trl("glm4moe"), _glm, "<|endoftext|>"),
    "yi": Case(YI, _ending("<|im_end|>\n"), "<|endoftext|>", _IM_END),
    "alpaca": Case(_ours("alpaca"), _ending("</s>"), "</s>", "</s>"),
}  # fmt: skip

SPECIAL = (
    "<|pad|>", "<s>", "</s>", "<eos>", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>",
    "<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>",
    "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "[gMASK]", "<sop>", "<|observation|>",
    "[INST]", "[/INST]",
)  # fmt: skip


def make_case_tokenizer(case: Case) -> PreTrainedTokenizerBase:
    """A byte-level BPE that knows the special tokens of every case, so all have the same ids."""
    from support import CORPUS
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token=case.eos, bos_token=case.bos
    )
    fast.chat_template = case.template
    return fast


#: Surrogates cannot be encoded, and U+FDD0 to U+FDD3 are reserved for marks.
_CHARACTERS = st.characters(
    exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1\ufdd2\ufdd3"
)
_PIECES = st.one_of(
    st.sampled_from(
        (
            "", " ", "\n", "  two spaces ", "\n\nlines\n", "四。", "好的\u3000", "👍🏽", "<b>x</b>",
            "<", "### Response:\n", "[/INST]", "<|im_end|>\n<|im_start|>assistant\n", "a", "Hello",
            "{{ x }}", "{% generation %}",
        )
    ),
    st.text(_CHARACTERS, max_size=8),
)  # fmt: skip
_TEXTS = st.lists(_PIECES, max_size=3).map("".join)
_THOUGHTS = st.one_of(
    st.just(""), st.builds("<think>\n{}\n</think>\n\n".format, st.sampled_from(("", "hm", "嗯\n")))
)


def tag(i: int) -> str:
    """What stands in the text of turn `i` and nowhere else, unless the assistant wrote it."""
    return f"¤{i}¤"


@st.composite
def conversations(draw: Any, case: Case, *, weights: bool = True) -> list[Turn]:
    """One to four rounds; every turn that is not the assistant's holds its tag.

    There is no reasoning if the template does not read it, since such rows are refused.
    """
    turns: list[Turn] = []
    if case.has_system and draw(st.booleans()):
        turns.append({"role": "system", "content": draw(_TEXTS) + tag(0) + draw(_TEXTS)})
    for _ in range(draw(st.integers(1, 4))):
        asked = draw(_TEXTS) + tag(len(turns)) + draw(_TEXTS)
        turns.append({"role": "user", "content": asked})
        answer = {"role": "assistant", "content": draw(_THOUGHTS) + draw(_TEXTS)}
        if "reasoning_content" in case.template and draw(st.integers(0, 4)) == 0:
            answer["reasoning_content"] = draw(st.sampled_from(("", "so\n", "想")))
        if weights and draw(st.integers(0, 4)) == 0:
            answer |= draw(st.sampled_from(({"weight": 0}, {"loss": False}, {"train": False})))
        turns.append(answer)
    return turns
