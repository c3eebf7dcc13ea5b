import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.errors import ConfigError
from alignment.models.presets import PRESETS, init_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return init_model("tiny", tmp_path_factory.mktemp("models") / "tiny")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equal_arguments_write_equal_bytes_and_another_seed_other_weights(folder, tmp_path):
    torch.manual_seed(123)  # the caller's random state does not matter, and is left alone
    state = torch.get_rng_state()
    again = contents(init_model("tiny", tmp_path / "again"))
    assert torch.equal(torch.get_rng_state(), state)
    assert again == contents(folder)
    other = contents(init_model("tiny", tmp_path / "other", seed=1))
    assert {name for name in again if again[name] != other[name]} == {"model.safetensors"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_one_to_five_million_parameters_and_says_when_to_stop(preset, tmp_path):
    init_model(preset, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert 1e6 < model.num_parameters() < 5e6
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "text", ["您好，答案是五十八。", "Hello,  it's fifty-eight!\n", "3米=300厘米 🙂 naïve é 龘"]
)
def test_chinese_and_english_text_survive_the_tokenizer(folder, text):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_numerals_are_tokens_of_their_own(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = [tokenizer.decode([i]) for i in tokenizer("请把358写成三百五十八")["input_ids"]]
    assert [t for t in tokens if t in "358三百五十八"] == list("358三百五十八")


def test_the_template_marks_what_the_assistant_says(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "user", "content": "58用汉字怎么写？"},
        {"role": "assistant", "content": "您好，是五十八。"},
    ]
    found = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [
        token
        for token, mask in zip(found["input_ids"], found["assistant_masks"], strict=True)
        if mask
    ]
    assert tokenizer.decode(marked) == "您好，是五十八。<|im_end|>"
    prompt = tokenizer.apply_chat_template(
        messages[:1], add_generation_prompt=True, return_dict=False
    )
    assert found["input_ids"][: len(prompt)] == prompt
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")


def test_another_corpus_makes_another_vocabulary(folder, tmp_path):
    init_model("tiny", tmp_path, corpus=["zyzzyva zyzzyva zyzzyva"] * 20)
    text = "zyzzyva"
    ours = AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert len(ours) == 1 < len(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])


def test_a_used_folder_is_left_alone_unless_asked(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        init_model("tiny", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    init_model("tiny", tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").is_file()


def test_an_unknown_preset_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(
        ConfigError, match=r"unknown preset 'tiny-lama'[\s\S]*did you mean tiny-llama"
    ):
        init_model("tiny-lama", tmp_path / "model")
    assert not (tmp_path / "model").exists()
