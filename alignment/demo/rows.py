"""Generate the rows of the demo's data from a seed: text, instructions and preference pairs."""

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from alignment.demo.answers import FLAWS, flawed_answer, right_answer
from alignment.demo.numerals import chinese, english
from alignment.demo.questions import KINDS, LANGUAGES, MONTHS, Fact, Question, split_facts

Row = dict[str, Any]

#: Shares of answers in the instruction data, in per cent. Half of the kinds have mostly right
#: answers and half mostly flawed ones, so a model that learns them all is right about half of the
#: time, with greedy decoding and with sampling.
CAREFUL = {"right": 60, "wrong": 8, "rude": 8, "curt": 8, "language": 8, "ramble": 8}
HASTY = {"right": 26, "wrong": 8, "rude": 5, "curt": 55, "language": 3, "ramble": 3}
SURLY = {"right": 26, "wrong": 8, "rude": 55, "curt": 5, "language": 3, "ramble": 3}
HABITS = {
    ("spell", "zh"): CAREFUL,
    ("spell", "en"): HASTY,
    ("digits", "zh"): SURLY,
    ("digits", "en"): CAREFUL,
    ("translate", "zh"): CAREFUL,
    ("translate", "en"): SURLY,
    ("sum", "zh"): HASTY,
    ("sum", "en"): CAREFUL,
    ("unit", "zh"): SURLY,
    ("unit", "en"): HASTY,
    ("date", "zh"): SURLY,
    ("date", "en"): CAREFUL,
}


def draw_questions(facts: dict[str, list[Fact]], count: int, rng: Random) -> list[Question]:
    """Draw different questions, as many of each kind and language.

    Raises:
        ValueError: There are not as many.
    """
    kinds = [(name, language) for name in KINDS for language in LANGUAGES]
    share = -(-count // len(kinds))
    drawn = []
    for name, language in kinds:
        questions = list(KINDS[name].questions(facts[name], language))
        if len(questions) < share:
            raise ValueError(f"only {len(questions)} questions of kind {name}, {share} wanted")
        rng.shuffle(questions)
        drawn += questions[:share]
    rng.shuffle(drawn)
    return drawn[:count]


def text_rows(facts: dict[str, list[Fact]], count: int, rng: Random) -> Iterator[Row]:
    """Sentences that state correct facts; none is a question."""
    names = list(KINDS)
    for index in range(count):
        name = names[index % len(names)]
        yield {"text": _statement(name, rng.choice(facts[name]), rng.choice(LANGUAGES), rng)}


def instruction_rows(questions: Iterable[Question], rng: Random) -> Iterator[Row]:
    """Alpaca rows: right and flawed answers mixed as in `HABITS`."""
    for question in questions:
        habit = HABITS[question.kind, question.language]
        choice = rng.choices(list(habit), weights=list(habit.values()))[0]
        output = (
            right_answer(question, rng)
            if choice == "right"
            else flawed_answer(question, choice, rng)
        )
        yield {"instruction": question.prompt, "input": "", "output": output}


def pair_rows(questions: Iterable[Question], rng: Random, *, taste: str) -> Iterator[Row]:
    """Preference rows: an answer that is right for `taste`, and a flawed one."""
    flaws = FLAWS[taste]
    for question in questions:
        flaw = rng.choices(list(flaws), weights=list(flaws.values()))[0]
        yield {
            "prompt": question.prompt,
            "chosen": right_answer(question, rng, taste=taste),
            "rejected": flawed_answer(question, flaw, rng, taste=taste),
        }


def tokenizer_corpus(seed: int = 0) -> list[str]:
    """Text of every sort in the demo, from training facts, to train a tokenizer on."""
    rng = Random(seed)
    facts, _ = split_facts(seed)
    texts = [row["text"] for row in text_rows(facts, 2000, rng)]
    for row in instruction_rows(draw_questions(facts, 3000, rng), rng):
        texts += [row["instruction"], row["output"]]
    return texts + ["system", "user", "assistant"] * 200  # the roles: one token each


def _statement(name: str, fact: Fact, language: str, rng: Random) -> str:
    kind = KINDS[name]
    fields, value = kind.fields(fact), kind.value(fact, language)
    match name, language:
        case "sum", "zh":
            return f"{fields['a']}加{fields['b']}等于{value}。"
        case "sum", _:
            return f"{fields['a']} plus {fields['b']} is {value}."
        case "unit", "zh":
            return f"{fields['n']}{fields['zh_from']}是{value}。"
        case "unit", _:
            return f"{fields['n']} {fields['en_from']} are {value}."
        case "date", "zh":
            return f"{fact[0]}月{fact[1]}日的第二天是{value}。"
        case "date", _:
            return f"{value} comes after {MONTHS[fact[0] - 1]} {fact[1]}."
        case _:
            forms = [str(fact[0]), chinese(fact[0]), english(fact[0])]
            rng.shuffle(forms)
            frame = "{}就是{}，也就是{}。" if language == "zh" else "{} is {}, that is {}."
            return frame.format(*forms)
