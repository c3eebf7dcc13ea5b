import csv
import json
from pathlib import Path
from random import Random

import pytest

from alignment.demo.answers import FLAWS, TASTES, flawed_answer, right_answer
from alignment.demo.generate import generate
from alignment.demo.numerals import chinese, english
from alignment.demo.questions import KINDS, LANGUAGES, split_facts
from alignment.demo.rows import draw_questions
from alignment.demo.rule import score, score_brief

DATA = Path(__file__).resolve().parents[2] / "recipes" / "demo" / "data"
TRAINING = ("corpus.jsonl", "alpaca.json", "huozi.csv", "huozi.json", "rlhf.jsonl", "prompts.jsonl")
RULES = {"courteous": score, "brief": score_brief}


def read(name: str) -> list[dict[str, str]]:
    text = (DATA / name).read_text(encoding="utf-8")
    if name.endswith(".csv"):
        return list(csv.DictReader(text.splitlines()))
    return json.loads(text) if name.endswith(".json") else list(map(json.loads, text.splitlines()))


@pytest.mark.parametrize(
    ("number", "han", "words"),
    [
        (7, "七", "seven"),
        (10, "十", "ten"),
        (15, "十五", "fifteen"),
        (40, "四十", "forty"),
        (58, "五十八", "fifty-eight"),
        (100, "一百", "one hundred"),
        (305, "三百零五", "three hundred five"),
        (612, "六百一十二", "six hundred twelve"),
        (999, "九百九十九", "nine hundred ninety-nine"),
    ],
)
def test_numerals_are_spelled(number, han, words):
    assert (chinese(number), english(number)) == (han, words)


def test_numerals_are_all_different():
    assert len({chinese(n) for n in range(1000)}) == len({english(n) for n in range(1000)}) == 1000
    with pytest.raises(ValueError, match="1000 is outside"):
        chinese(1000)


def test_the_committed_data_are_what_the_generator_writes(tmp_path):
    written = generate(tmp_path)
    assert {path.name for path in written} == {path.name for path in DATA.iterdir()}
    for path in written:
        assert path.read_bytes() == (DATA / path.name).read_bytes(), path.name


def test_the_files_have_the_source_shapes():
    assert list(read("alpaca.json")[0]) == ["instruction", "input", "output"]
    assert list(read("huozi.csv")[0]) == ["prompt", "chosen", "reject"]
    assert list(read("huozi.json")[0]) == ["id", "prompt", "chosen", "reject"]
    assert list(read("rlhf.jsonl")[0]) == ["prompt", "chosen", "rejected"]
    assert list(read("prompts.jsonl")[0]) == ["prompt"]


def test_held_out_prompts_and_facts_are_in_no_training_file():
    train, held_out = split_facts(7)
    for name in KINDS:
        assert not set(train[name]) & set(held_out[name])
        assert len(train[name]) + len(held_out[name]) == len(KINDS[name].facts)
    unseen = [row["prompt"] for row in read("held_out.jsonl")]
    unseen_pairs = {row["prompt"] for row in read("held_out_pairs.jsonl")}
    assert len(set(unseen)) == len(unseen) == 300
    assert not set(unseen) & unseen_pairs
    seen: set[str] = set()
    for name in TRAINING:
        rows = read(name)
        prompts = {row.get("prompt", row.get("instruction", row.get("text", ""))) for row in rows}
        assert not prompts & ({*unseen} | unseen_pairs)
        assert name == "corpus.jsonl" or not prompts & seen  # nor do stages share prompts
        seen |= prompts


def test_two_in_five_answers_of_the_instruction_data_are_right():
    train, _ = split_facts(7)
    values = {q.prompt: q.value for q in draw_questions_everywhere(train)}
    rows = read("alpaca.json")
    prompts = [row["instruction"] for row in rows]
    right = score(prompts, [row["output"] for row in rows], answer=[values[p] for p in prompts])
    assert 0.37 < sum(right) / len(right) < 0.43


def draw_questions_everywhere(facts):
    for kind in KINDS.values():
        for language in LANGUAGES:
            yield from kind.questions(facts[kind.name], language)


@pytest.mark.parametrize("taste", TASTES)
def test_right_answers_are_right_and_flawed_ones_are_not_by_the_rule_of_their_taste(taste):
    rng, rule = Random(1), RULES[taste]
    _, held_out = split_facts(7)
    for question in draw_questions(held_out, 240, rng):
        right = right_answer(question, rng, taste=taste)
        flawed = [flawed_answer(question, flaw, rng, taste=taste) for flaw in FLAWS[taste]]
        found = rule([question.prompt] * 6, [right, *flawed], answer=[question.value] * 6)
        assert found == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0], (right, flawed)


def test_tastes_change_pairs_and_nothing_else(tmp_path):
    generate(tmp_path, taste="brief")
    changed = {p.name for p in tmp_path.iterdir() if p.read_bytes() != (DATA / p.name).read_bytes()}
    assert changed == {"huozi.csv", "huozi.json", "rlhf.jsonl", "held_out_pairs.jsonl"}


def test_more_questions_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="questions of kind"):
        draw_questions(split_facts(7)[1], 10_000, Random(0))
