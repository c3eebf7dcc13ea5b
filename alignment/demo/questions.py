"""The questions of the demo: their kinds, facts and right values."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from alignment.demo.numerals import chinese, english

Fact = tuple[int, ...]

LANGUAGES = ("zh", "en")
DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
UNITS = (
    # from, to (Chinese), from, to (English), and how many of the second make one of the first
    ("米", "厘米", "metres", "centimetres", 100),
    ("元", "角", "yuan", "jiao", 10),
    ("公斤", "克", "kilograms", "grams", 1000),
)


@dataclass(frozen=True)
class Question:
    """One question: its text, and the value that a right answer must give."""

    kind: str
    language: str
    prompt: str
    value: str
    fact: Fact


@dataclass(frozen=True)
class Kind:
    """A kind of question: its facts, its wordings, its right value and its likely mistakes."""

    name: str
    facts: tuple[Fact, ...]
    wordings: dict[str, tuple[str, ...]]
    fields: Callable[[Fact], dict[str, object]]
    value: Callable[[Fact, str], str]
    mistake: Callable[[Fact, Random], Fact]

    def questions(self, facts: Iterable[Fact], language: str) -> Iterator[Question]:
        """Every question about these facts, in every wording."""
        for fact in facts:
            value, fields = self.value(fact, language), self.fields(fact)
            for wording in self.wordings[language]:
                yield Question(self.name, language, wording.format(**fields), value, fact)

    def wrong_value(self, question: Question, rng: Random) -> str:
        """Return a wrong value: half of the time a slip, otherwise far off."""
        while True:
            slip = rng.random() < 0.5
            fact = self.mistake(question.fact, rng) if slip else rng.choice(self.facts)
            value = self.value(fact, question.language)
            if value != question.value:
                return value


def _number_fields(fact: Fact) -> dict[str, object]:
    return {"digits": fact[0], "han": chinese(fact[0]), "words": english(fact[0])}


def _near_number(fact: Fact, rng: Random) -> Fact:
    """Change one digit or swap two, as a person in a hurry would."""
    digits = list(str(fact[0]))
    place = rng.randrange(len(digits))
    if place and digits[place] != digits[place - 1] and digits[place] != "0" and rng.random() < 0.3:
        digits[place - 1], digits[place] = digits[place], digits[place - 1]
    else:
        digits[place] = str(rng.randrange(1 if place == 0 else 0, 10))
    return (int("".join(digits)),)


def _near_sum(fact: Fact, rng: Random) -> Fact:
    return (fact[0] + rng.choice((-10, -2, -1, 1, 2)), fact[1])


def _sum_fields(fact: Fact) -> dict[str, object]:
    return {"a": fact[0], "b": fact[1]}


def _unit_fields(fact: Fact) -> dict[str, object]:
    zh_from, zh_to, en_from, en_to, _ = UNITS[fact[0]]
    return {"n": fact[1], "zh_from": zh_from, "zh_to": zh_to, "en_from": en_from, "en_to": en_to}


def _unit_value(fact: Fact, language: str) -> str:
    _, zh_to, _, en_to, factor = UNITS[fact[0]]
    amount = fact[1] * factor * 10 ** (fact[2] if len(fact) > 2 else 0)
    return f"{amount}{zh_to}" if language == "zh" else f"{amount} {en_to}"


def _near_unit(fact: Fact, rng: Random) -> Fact:
    """A different amount, or one zero too many (the third number counts the extra zeros)."""
    if rng.random() < 0.5:
        return (fact[0], fact[1], 1)
    return (fact[0], *_near_number((fact[1],), rng))


def _date_fields(fact: Fact) -> dict[str, object]:
    return {"month": fact[0], "name": MONTHS[fact[0] - 1], "day": fact[1]}


def _date_value(fact: Fact, language: str) -> str:
    month, day = fact[0], fact[1] + 1
    return f"{month}月{day}日" if language == "zh" else f"{MONTHS[month - 1]} {day}"


def _near_date(fact: Fact, rng: Random) -> Fact:
    return (fact[0], max(0, fact[1] + rng.choice((-2, -1, 1, 2))))


_NUMBERS = tuple((number,) for number in range(10, 1000))

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "spell",
            _NUMBERS,
            {
                "zh": ("{digits}用汉字怎么写？", "请把{digits}写成汉字。", "数字{digits}怎么读？"),
                "en": (
                    "How do you spell {digits}?",
                    "Write {digits} in words.",
                    "What is {digits} in words?",
                ),
            },
            _number_fields,
            lambda fact, language: chinese(fact[0]) if language == "zh" else english(fact[0]),
            _near_number,
        ),
        Kind(
            "digits",
            _NUMBERS,
            {
                "zh": ("{han}用数字怎么写？", "请把{han}写成数字。", "{han}是几？"),
                "en": (
                    "Write {words} in digits.",
                    "What number is {words}?",
                    "Give {words} in digits.",
                ),
            },
            _number_fields,
            lambda fact, _: str(fact[0]),
            _near_number,
        ),
        Kind(
            "translate",
            _NUMBERS,
            {
                "zh": ("{words}用中文怎么说？", "请把{words}翻译成中文。", "{words}的中文是什么？"),
                "en": (
                    "What is {han} in English?",
                    "Translate {han} into English.",
                    "How do you say {han} in English?",
                ),
            },
            _number_fields,
            lambda fact, language: chinese(fact[0]) if language == "zh" else english(fact[0]),
            _near_number,
        ),
        Kind(
            "sum",
            tuple(
                (a, b) for a in range(10, 100) for b in range(1, 10 - a % 10)
            ),  # nothing to carry
            {
                "zh": ("{a}加{b}等于多少？", "请算一下{a}加{b}。", "{a}加{b}是几？"),
                "en": ("What is {a} plus {b}?", "Add {b} to {a}.", "How much is {a} plus {b}?"),
            },
            _sum_fields,
            lambda fact, _: str(fact[0] + fact[1]),
            _near_sum,
        ),
        Kind(
            "unit",
            tuple((unit, n) for unit in range(len(UNITS)) for n in range(2, 200)),
            {
                "zh": (
                    "{n}{zh_from}是多少{zh_to}？",
                    "请把{n}{zh_from}换算成{zh_to}。",
                    "{n}{zh_from}等于多少{zh_to}？",
                ),
                "en": (
                    "How many {en_to} are {n} {en_from}?",
                    "Convert {n} {en_from} to {en_to}.",
                    "What are {n} {en_from} in {en_to}?",
                ),
            },
            _unit_fields,
            _unit_value,
            _near_unit,
        ),
        Kind(
            "date",
            tuple((month + 1, day) for month in range(12) for day in range(1, DAYS[month])),
            {
                "zh": (
                    "{month}月{day}日的第二天是几月几日？",
                    "{month}月{day}日的后一天是哪天？",
                    "{month}月{day}日之后是哪天？",
                ),
                "en": (
                    "What day comes after {name} {day}?",
                    "Which day follows {name} {day}?",
                    "What is the day after {name} {day}?",
                ),
            },
            _date_fields,
            _date_value,
            _near_date,
        ),
    )
}


def split_facts(
    seed: int, share: float = 0.12
) -> tuple[dict[str, list[Fact]], dict[str, list[Fact]]]:
    """Split the facts of every kind into training and held-out ones.

    The three kinds on numerals share one split, so that a held-out number is never spelled, read
    or translated in training.
    """
    train: dict[str, list[Fact]] = {}
    held_out: dict[str, list[Fact]] = {}
    for name, kind in KINDS.items():
        facts = list(kind.facts)
        Random(f"{seed} {len(facts)}").shuffle(facts)  # equal facts are shuffled equally
        cut = round(len(facts) * share)
        held_out[name], train[name] = facts[:cut], facts[cut:]
    return train, held_out
