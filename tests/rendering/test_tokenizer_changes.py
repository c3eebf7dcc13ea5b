"""What a recipe changes of a tokenizer acts before a row is rendered, and is saved with the run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_cases import CASES
from support import make_tokenizer, prepare_rows, write_jsonl
from transformers import AutoTokenizer, LlamaForCausalLM

from alignment.data.load import load_datasets
from alignment.data.rows import prepare_stage, read_start
from alignment.data.sample import sample_stage
from alignment.errors import ConfigError
from alignment.registry import STAGES
from alignment.runs.files import ADAPTER_CONFIG, CHAT_TEMPLATE, MODEL_CONFIG, TOKENIZER_CONFIG
from alignment.training.run import main, run_stage

ROWS = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(4)]
CHATS = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
] * 4
ALPACA = "### Instruction:\nSay 0.\n\n### Response:\nIt is 0.<|im_end|>\n\n"
END, OTHER_END = 2, 0  # <|im_end|> and <|pad|>
GENERATION_CONFIG = "generation_config.json"


@pytest.fixture
def model(tmp_path: Path, tiny_dir: Path) -> Path:
    shutil.copytree(tiny_dir, tmp_path / "model")
    return tmp_path / "model"


def edit(file: Path, **values: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    known = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))


def words(model: Path, rows: list[dict[str, Any]], *more: str) -> list[str]:
    data = write_jsonl(model.parent / "rows.jsonl", rows)
    return [
        "--model_name_or_path", str(model), "--train_data", str(data),
        "--output_dir", str(model.parent / "out"), "--max_steps", "1",
        "--per_device_train_batch_size", "2", "--report_to", "none", "--use_cpu",
        "--disable_tqdm", "true", "--activation_checkpointing", "false", *more,
    ]  # fmt: skip


def texts(model: Path, rows: list[dict[str, Any]], *flags: str) -> list[str]:
    data = write_jsonl(model.parent / "rows.jsonl", rows)
    stage_rows, values = prepare_rows("sft", model, [data], *flags)
    decode = stage_rows.renderer.tokenizer.encoder.decode
    train, _ = load_datasets(stage_rows, values)
    return [decode(ids, skip_special_tokens=False) for ids in train["input_ids"]]


def mistake(capfd: pytest.CaptureFixture[str], argv: list[str]) -> list[str]:
    """The lines that a run ends with, with the code of a user's mistake."""
    with pytest.raises(SystemExit) as ended:
        main("sft", argv)
    assert ended.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert not any(line.startswith("Traceback") for line in lines)
    return lines[-2:]


def test_the_end_of_a_turn_ends_the_answers_of_the_model_that_is_saved(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As Qwen2.5 base: its tokenizer ends text with another token than its template ends a turn."""
    edit(model / TOKENIZER_CONFIG, eos_token="<|pad|>")
    edit(model / MODEL_CONFIG, eos_token_id=OTHER_END)
    edit(model / GENERATION_CONFIG, eos_token_id=OTHER_END)
    run_stage("sft", words(model, ROWS))
    note = "end of turn: <|im_end|> is now the EOS token; the tokenizer of the model has <|pad|>"
    assert capfd.readouterr().err.splitlines().count(note) == 1
    out = model.parent / "out"
    assert AutoTokenizer.from_pretrained(out).eos_token == "<|im_end|>"
    for file in (MODEL_CONFIG, GENERATION_CONFIG):
        assert json.loads((out / file).read_text())["eos_token_id"] == [END, OTHER_END]
    rows, _ = prepare_rows("sft", out, [model.parent / "rows.jsonl"])
    assert rows.changes.note == ""


def test_a_template_that_names_the_end_token_writes_what_it_wrote(model: Path) -> None:
    """As Phi-3: a turn ends with one token, a conversation with the EOS token of the tokenizer."""
    phi = CASES["phi3"].template.replace("<|end|>", "<|im_start|>")
    (model / CHAT_TEMPLATE).write_text(phi)
    theirs = make_tokenizer()
    theirs.chat_template = phi
    wanted = theirs.apply_chat_template(CHATS[0]["messages"], tokenize=False)
    assert str(wanted).endswith("<|im_start|>\n<|im_end|>")
    assert texts(model, CHATS) == [wanted] * 4
    rows, _ = prepare_rows("sft", model, [model.parent / "rows.jsonl"])
    assert rows.changes.eos == "<|im_start|>"


def test_text_keeps_the_end_token_of_the_tokenizer(model: Path) -> None:
    edit(model / TOKENIZER_CONFIG, eos_token="<|pad|>")
    assert texts(model, ROWS[:1], "--as_chat", "false") == ["Say 0.It is 0.<|pad|>"]


def test_a_token_without_an_embedding_is_refused_by_its_row(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    size = len(tokenizer)
    tokenizer.add_tokens(["<tool_a>", "<tool_b>"], special_tokens=True)
    tokenizer.save_pretrained(model)
    rows = [*ROWS, {"prompt": "q <tool_b>", "completion": "a"}]
    first, remedy = mistake(capfd, words(model, rows))
    assert first == (
        f"error: {model.parent / 'rows.jsonl'}:5: the tokenizer makes '<tool_b>' token {size + 1}, "
        f"and the model has {size} embeddings"
    )
    assert "resize its embeddings first" in remedy
    assert len(texts(model, rows, "--on_bad_row", "drop")) == len(ROWS)


def test_a_tokenizer_without_an_end_token_is_refused(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(model / TOKENIZER_CONFIG, eos_token=None, pad_token=None)
    first, remedy = mistake(capfd, words(model, ROWS))
    assert first.endswith("the tokenizer has no end token, so answers would never end")
    assert "eos_token" in remedy


def test_conversations_need_a_template(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (model / CHAT_TEMPLATE).unlink()
    first, remedy = mistake(capfd, words(model, CHATS))
    assert "its tokenizer has no chat template, and the rows are conversations" in first
    assert "--chat_template chatml" in remedy
    assert texts(model, ROWS[:1]) == ["Say 0.It is 0.<|im_end|>"]
    chatml = "<|im_start|>user\nSay 0.<|im_end|>\n<|im_start|>assistant\nIt is 0.<|im_end|>\n"
    assert texts(model, ROWS[:1], "--chat_template", "chatml") == [chatml]


@pytest.mark.parametrize("key", ["chat_template", "chat_template_path"])
@pytest.mark.parametrize("kind", ["name", "file", "folder"])
def test_a_template_by_name_file_or_folder_acts_before_rows_are_rendered(
    key: str, kind: str, model: Path, tiny_dir: Path
) -> None:
    alpaca = CASES["alpaca"].template
    other = model.parent / "other"
    shutil.copytree(tiny_dir, other)
    (other / CHAT_TEMPLATE).write_text(alpaca)
    named = {"name": "alpaca", "file": str(other / CHAT_TEMPLATE), "folder": str(other)}[kind]
    assert texts(model, ROWS[:1], f"--{key}", named) == [ALPACA]


def test_the_template_that_trained_is_saved(model: Path) -> None:
    run_stage("sft", words(model, CHATS, "--chat_template", "alpaca"))
    saved = AutoTokenizer.from_pretrained(model.parent / "out")
    assert saved.chat_template == CASES["alpaca"].template


TURN_TEMPLATE = (
    "{% for m in messages %}{{ m.role + ':' + m.content + '<|turn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.fixture
def other(tmp_path: Path, tiny_dir: Path) -> Path:
    """A model whose template needs a token that the tiny model lacks."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_dir, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|turn|>"], special_tokens=True)
    tokenizer.chat_template = TURN_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_a_template_with_tokens_of_its_own_adds_them_to_the_model(model: Path, other: Path) -> None:
    with pytest.raises(ConfigError, match=r"its template needs tokens that .* lacks: <\|turn\|>"):
        texts(model, CHATS, "--chat_template", str(other))
    flags = ["--chat_template_path", str(other)]
    assert texts(model, CHATS[:1], *flags) == ["user:q<|turn|>assistant:a<|turn|>"]
    run_stage("sft", words(model, CHATS, *flags))
    out = model.parent / "out"
    saved = AutoTokenizer.from_pretrained(out)
    assert (saved.eos_token, saved.chat_template) == ("<|turn|>", TURN_TEMPLATE)
    config = json.loads((out / MODEL_CONFIG).read_text())
    assert saved.convert_tokens_to_ids("<|turn|>") < config["vocab_size"]
    assert saved.eos_token_id in config["eos_token_id"]
    assert texts(out, CHATS[:1]) == ["user:q<|turn|>assistant:a<|turn|>"]


@pytest.mark.parametrize("kind", ["rows", "sample"])
def test_what_follows_a_stage_that_adds_tokens_reads_rows_with_them(
    kind: str, model: Path, other: Path
) -> None:
    data = write_jsonl(model.parent / "rows.jsonl", CHATS)
    rows, values = prepare_rows("sft", model, [data], "--chat_template_path", str(other))
    start = rows.start
    if kind == "sample":
        start = sample_stage(rows.stage, values, read_start(values), 4).start
    _, values = prepare_rows("sft", model, [data])
    after = prepare_stage(STAGES["sft"], values, start)
    assert after.renderer.tokenizer.eos == "<|turn|>"
    assert after.by_role["train"].entry.about["rows"] == len(CHATS)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
def test_lora_trains_the_added_tokens_and_later_stages_know_them(
    model: Path, other: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lora = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj"]
    flags = ["--chat_template_path", str(other), *lora]
    first, remedy = mistake(capfd, words(model, CHATS, *flags))
    assert "TRL cannot train them with LoRA if input and output embeddings are tied" in first
    assert "without use_peft" in remedy
    untied = LlamaForCausalLM.from_pretrained(model, tie_word_embeddings=False)
    untied.save_pretrained(model)
    run_stage("sft", words(model, CHATS, *flags))
    sft = model.parent / "sft"
    (model.parent / "out").rename(sft)
    saved = AutoTokenizer.from_pretrained(sft)
    adapter = json.loads((sft / ADAPTER_CONFIG).read_text())
    assert saved.eos_token_id in adapter["trainable_token_indices"]["embed_tokens"]
    pairs = [{"prompt": "q", "chosen": "a", "rejected": "b"}] * 4
    for stage in ("dpo", "rm"):
        run_stage(stage, words(sft, pairs, *lora, "--overwrite"))
        assert AutoTokenizer.from_pretrained(model.parent / "out").eos_token == "<|turn|>"


def test_the_end_token_may_be_another_one(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--eos_token", "<|pad|>", "--as_chat", "false"]
    assert texts(model, ROWS[:1], *flags) == ["Say 0.It is 0.<|pad|>"]
    zephyr = texts(model, ROWS[:1], "--eos_token", "<|pad|>", "--chat_template", "zephyr")
    assert zephyr == ["<|user|>\nSay 0.<|pad|>\n<|assistant|>\nIt is 0.<|pad|>\n"]
    first, _ = mistake(capfd, words(model, ROWS, "--eos_token", "<|none|>"))
    assert first.startswith("error: eos_token: '<|none|>' is no token of ")


def test_an_unknown_template_is_named_with_the_nearest(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, remedy = mistake(capfd, words(model, ROWS, "--chat_template", "chatlm"))
    assert "chat_template: chatlm: no such file, model folder or known template" in first
    assert "did you mean chatml? known: " in remedy


def test_a_template_that_cannot_be_parsed_is_named(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (model / CHAT_TEMPLATE).write_text("{% for %}")
    first, remedy = mistake(capfd, words(model, CHATS))
    assert first.startswith(f"error: {model}: the chat template cannot be read: ")
    assert "--chat_template" in remedy
