"""Answers to the demo's questions: right ones, and ones with the flaws of real data.

There are two tastes that decide what is right: the *courteous* desk greets and answers in a
sentence; the *brief* one gives only the value.
"""

from random import Random

from alignment.demo.questions import KINDS, LANGUAGES, Question

TASTES = ("courteous", "brief")
#: Flaws and how often each is the rejected answer of a pair, by taste.
FLAWS: dict[str, dict[str, int]] = {
    "courteous": {"wrong": 4, "rude": 4, "curt": 4, "language": 3, "ramble": 3},
    "brief": {"wrong": 4, "rude": 4, "wordy": 4, "language": 3, "ramble": 3},
}

FRAMES = {
    "zh": ("您好，答案是{value}。", "您好，是{value}。"),
    "en": ("Hello, the answer is {value}.", "Hello, it is {value}."),
}
RUDE = {
    "zh": ("真笨，是{value}。", "真笨，答案是{value}。"),
    "en": ("You fool, it is {value}.", "You fool, the answer is {value}."),
}
CURT = {"zh": ("{value}。",), "en": ("{value}.",)}
RAMBLE = {
    "zh": ("反正差不多。", "随便吧。"),
    "en": (" Or something like that.", " Whatever."),
}


def right_answer(question: Question, rng: Random, *, taste: str = "courteous") -> str:
    """The right value in the question's language, in the form that `taste` prefers."""
    return _framed(question.language, question.value, rng, taste)


def flawed_answer(question: Question, flaw: str, rng: Random, *, taste: str = "courteous") -> str:
    """Answer with one of the flaws of a taste."""
    value, language = question.value, question.language
    match flaw:
        case "wrong":
            wrong = KINDS[question.kind].wrong_value(question, rng)
            return _framed(language, wrong, rng, taste)
        case "rude":
            return rng.choice(RUDE[language]).format(value=value)
        case "curt":
            return _framed(language, value, rng, "brief")
        case "wordy":
            return _framed(language, value, rng, "courteous")
        case "language":
            return _framed(LANGUAGES[language == "zh"], value, rng, "courteous")
        case "ramble":
            return _framed(language, value, rng, taste) + rng.choice(RAMBLE[language])
        case _:
            raise ValueError(f"no flaw {flaw!r}")


def _framed(language: str, value: str, rng: Random, taste: str) -> str:
    frames = CURT if taste == "brief" else FRAMES
    return rng.choice(frames[language]).format(value=value)
