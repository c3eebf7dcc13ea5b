import pytest

from alignment.demo.rule import score, score_brief
from alignment.errors import DataError

ZH, EN = "58用汉字怎么写？", "What is 五十八 in English?"


@pytest.mark.parametrize(
    ("prompt", "completion", "answer"),
    [
        (ZH, "您好，答案是五十八。", "五十八"),
        (ZH, "你好！五十八。", "五十八"),
        (EN, "Hello, the answer is fifty-eight.", "fifty-eight"),
        (EN, " Hi, it is fifty-eight!\n", "fifty-eight"),
        ("3米是多少厘米？", "您好，是300厘米。", "300厘米"),
        ("How many grams are 2 kilograms?", "Hello, it is 2000 grams.", "2000 grams"),
        ("fifty-eight用中文怎么说？", "您好，是五十八。", "五十八"),
        ("What day comes after May 5?", "Hello, the answer is May 6.", "May 6"),
    ],
)
def test_a_greeting_and_the_right_value_in_the_askers_language_are_right(
    prompt, completion, answer
):
    assert score([prompt], [completion], answer=[answer]) == [1.0]


@pytest.mark.parametrize(
    ("prompt", "completion", "answer"),
    [
        (ZH, "您好，答案是五十九。", "五十八"),
        (ZH, "您好，答案是58。", "五十八"),
        (ZH, "五十八。", "五十八"),
        (ZH, "真笨，是五十八。", "五十八"),
        (ZH, "Hello, it is 五十八.", "五十八"),
        (ZH, "您好，答案是五十八。随便吧。", "五十八"),
        (ZH, "您好，答案是五十八，五十八。", "五十八"),
        (ZH, "您好，答案是五十八", "五十八"),
        (ZH, "", "五十八"),
        (EN, "您好，是fifty-eight。", "fifty-eight"),
        (EN, "fifty-eight.", "fifty-eight"),
        (EN, "You fool, it is fifty-eight.", "fifty-eight"),
        (EN, "Hello, it is fifty-eight. Whatever.", "fifty-eight"),
        (EN, "Hello, it is fifty.", "fifty-eight"),
    ],
)
def test_each_flaw_is_wrong(prompt, completion, answer):
    assert score([prompt], [completion], answer=[answer]) == [0.0]


def test_the_second_rule_wants_the_value_alone():
    values = ["五十八。", "您好，是五十八。", "五十九。", "真笨，是五十八。"]
    assert score_brief([ZH] * 4, values, answer=["五十八"] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert score_brief([EN] * 2, ["fifty-eight.", "五十八。"], answer=["fifty-eight"] * 2) == [1, 0]


def test_messages_count_as_their_last_turn():
    prompts = [[{"role": "user", "content": ZH}]]
    completions = [[{"role": "assistant", "content": "您好，是五十八。"}]]
    assert score(prompts, completions, answer=["五十八"], kind=["spell"]) == [1.0]


def test_prompts_without_their_answers_are_refused():
    with pytest.raises(DataError, match="column `answer`"):
        score([ZH], ["您好，是五十八。"])
