"""Answers that break off, and whole ones that only have no full stop."""

import pytest

from data_tools.checks.endings import breaks_off, lacks_final_mark

ENGLISH = "There are apples on the table. I counted them for you twice, and there are"
"""Ends in a verb that needs more; other words replace it."""
CHINESE = "桌子上有苹果。我已经帮你数过两遍了，不过还要再看看厨房里和冰箱里"


def ending(answer: str) -> str:
    if breaks_off(answer):
        return "breaks off"
    return "no mark" if lacks_final_mark(answer) else ""


@pytest.mark.parametrize(
    "word",
    [
        "the", "a", "my", "and", "or", "of", "to", "with", "because", "which", "is", "will", "have",
        "I", "we", "very", "also", "it’s", "you'll", "I’m", "they've", "I think that", "but it",
        "and we, however,", "then he said “I do", "(in other words all",
    ],
)  # fmt: skip
def test_english_breaks_off_after_a_word_that_needs_another(word: str) -> None:
    assert ending(f"{ENGLISH} some {word}") == "breaks off"
    assert ending(f"{ENGLISH} some {word}.") == ""


@pytest.mark.parametrize("word", ["The", "It", "However", "There"])
def test_one_word_after_a_sentence_breaks_off(word: str) -> None:
    assert ending(f"{ENGLISH} four. {word}") == "breaks off"


@pytest.mark.parametrize(
    "words",
    ["four", "what I can help you with", "so many of them", "the one that you have", "or so",
     "them for a while", "(in all) four", "“four” apples", "what you need", "more than that",
     "four. Thanks"],
)  # fmt: skip
def test_english_that_may_be_whole_only_lacks_its_mark(words: str) -> None:
    assert ending(f"{ENGLISH} {words}") == "no mark"


@pytest.mark.parametrize(
    "words",
    ["的", "的苹果和", "，但", "，所以", "，例如", "，包括", "，因为它是", "，也就是一个", "在",
     "的水果，", "一共有", "（也就是说", "“红色的", "，我将", "，请你对", "，以及"],
)  # fmt: skip
def test_chinese_breaks_off_after_a_word_that_needs_another(words: str) -> None:
    assert ending(CHINESE + words) == "breaks off"
    assert ending(CHINESE + words + "。") == ""


@pytest.mark.parametrize(
    "words",
    ["的苹果", "的总和", "都是可以吃的", "的现在", "是否存在", "的方向", "的人都来参与", "是否涉及",
     "的理由", "有没有别的", "的一种", "，请你以后还给我", "的绝对", "（所有的）苹果",
     "“红色的”苹果"],
)  # fmt: skip
def test_chinese_that_may_be_whole_only_lacks_its_mark(words: str) -> None:
    assert ending(CHINESE + words.replace("还给我", "再来看我")) == "no mark"


@pytest.mark.parametrize(
    "answer",
    [
        "Here they are. Look:\n- a red apple from the garden that you liked so much and the",
        "Here they are. Look:\n1. a red apple from the garden that you liked so much and the",
        "看这里。如下：\n1、花园里的红苹果，去年你非常喜欢吃的那种，以及我们的",
        "Run this. It counts:\n```\nfor apple in apples: print(apple, end=the",
        "We add them. Then the number of all the apples is $a + b$ and that is = the",
        "We see that. It is at https://example.com/a/long/address/with/words/of/the",
        "I counted them twice. There are four.\nBest regards,",
        "an apple on the",
        "苹果和梨的",
        "",
        " \n",
    ],
)
def test_lists_code_formulas_and_short_lines_are_no_prose(answer: str) -> None:
    assert ending(answer) == ""


def test_a_short_answer_breaks_off_without_a_sentence_before_it() -> None:
    assert ending("The capital of France is the") == "breaks off"
    assert ending("法国首都的名字叫做巴黎，它是") == "breaks off"
    assert ending("The capital of France is Paris") == ""
    assert ending("Tom, Dick, Harry and Sally, Anna,") == ""  # names, as in a list


def test_only_the_end_of_a_long_line_is_read() -> None:
    assert ending("One. " + "word " * 1000 + "and the") == "breaks off"
    assert ending("One. " + "word " * 1000 + "and") == "breaks off"
