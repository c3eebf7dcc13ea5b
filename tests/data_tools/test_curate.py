"""Splits, repeats and leaks: counts on real slices, and sets made by hand."""

import json
import os
import pty
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support import REPOSITORY, write_jsonl

from alignment.errors import ConfigError, DataError
from data_tools.cli import data
from data_tools.formats import normalised
from data_tools.sets.contamination import COMMON, GramIndex
from data_tools.sets.curate import dedup, split
from data_tools.sets.leak import leaks
from data_tools.sets.near import NearIndex, five_grams, jaccard


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def many(prompts: int, each: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Question {i}?" + " " * j, "chosen": f"a{j}", "rejected": "b"}
        for j in range(each)
        for i in range(prompts)
    ]


def test_no_prompt_stands_on_two_sides(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", many(500, 3))
    parts = split(source, tmp_path / "out.jsonl", evaluation=0.2, test=0.1, seed=1)
    prompts = {
        side: {normalised(row["prompt"]) for row in lines(summary.output)}
        for side, summary in parts.items()
    }
    assert sum(summary.rows_out for summary in parts.values()) == 1500
    assert not prompts["train"] & prompts["eval"]
    assert not prompts["train"] & prompts["test"]
    assert not prompts["eval"] & prompts["test"]
    # 500 draws: four standard errors around the shares that were asked for
    assert len(prompts["eval"]) / 500 == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 500) ** 0.5)
    assert len(prompts["test"]) / 500 == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 500) ** 0.5)


def test_a_split_depends_on_seed_and_prompt_alone(tmp_path: Path) -> None:
    rows = many(200, 1)
    shuffled = random.Random(0).sample(rows, len(rows)) + many(230, 1)[200:]
    one = split(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "a.jsonl", evaluation=0.3)
    other = split(write_jsonl(tmp_path / "b.jsonl", shuffled), tmp_path / "b.jsonl", evaluation=0.3)
    third = split(tmp_path / "a.jsonl", tmp_path / "c.jsonl", evaluation=0.3, seed=1)

    def prompts(parts: Any) -> set[str]:
        return {row["prompt"] for row in lines(parts["eval"].output)}

    assert prompts(one) <= prompts(other)
    assert prompts(one) != prompts(third)


def test_conversations_stay_with_their_first_question(tmp_path: Path) -> None:
    rows = []
    for i in range(100):
        turns = [{"role": "user", "content": f"Start {i}"}]
        for depth in range(3):
            answers = {s: [{"role": "assistant", "content": s}] for s in ("chosen", "rejected")}
            rows.append({"prompt": list(turns), **answers})
            turns += [
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": str(depth)},
            ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    parts = split(source, tmp_path / "out.jsonl", evaluation=0.5)
    first = [
        {row["prompt"][0]["content"] for row in lines(summary.output)} for summary in parts.values()
    ]
    assert not first[0] & first[1]


def test_a_split_of_real_rankings_leaks_nothing(shared_data: Path, tmp_path: Path) -> None:
    parts = split(
        shared_data / "permissive/oaast_rm_zh.json", tmp_path / "out.jsonl", evaluation=0.1
    )
    assert sum(summary.rows_out for summary in parts.values()) == 775
    assert leaks(parts["train"].output, [parts["eval"].output], near=0, ngram=0).found == []


def test_shares_must_leave_something(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must leave something"):
        split(tmp_path / "in.jsonl", tmp_path / "out.jsonl", evaluation=0.9, test=0.2)


@pytest.mark.parametrize(
    ("name", "by", "kept"),
    [
        ("permissive/oaast_sft_zh.json", "row", 684),  # 5 rows stand twice
        ("permissive/oaast_sft_zh.json", "prompt", 447),  # 242 rows on a repeated prompt
        ("permissive/dpo_zh_demo.json", "row", 289),
        ("permissive/nemo_dummy_dpo.jsonl", "row", 4),
    ],
)
def test_exact_repeats_on_real_slices(
    shared_data: Path, tmp_path: Path, name: str, by: str, kept: int
) -> None:
    summary = dedup([shared_data / name], tmp_path / "out.jsonl", by=by)
    assert summary.rows_out == kept
    assert summary.rows_in - kept == summary.dropped["duplicate"]


def test_the_first_row_is_kept_as_it_was(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Ｑ 1?", "chosen": "A", "rejected": "b", "extra": [1]},
        {"prompt": "q  1?", "chosen": "a", "rejected": "B"},
        {"prompt": "q 2?", "chosen": "a", "rejected": "b"},
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    dedup([source], tmp_path / "out.jsonl")
    assert lines(tmp_path / "out.jsonl") == [rows[0], rows[2]]
    (lost,) = lines(tmp_path / "out.dropped.jsonl")
    assert (lost["row"], lost["reason"]) == (2, f"equal to {source}:1")


def sentence(words: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghij", k=7)) for _ in range(words)]


def test_near_repeats_are_found_and_others_left(tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        words = sentence(60, i)
        changed = [*words[:30], "zzzzzzz", *words[31:]]
        half = words[:30] + sentence(30, 1000 + i)
        for text in (words, changed, half):
            rows.append({"prompt": " ".join(text), "completion": "x"})
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    summary = dedup([source], tmp_path / "out.jsonl", near=0.8, by="prompt")
    assert summary.dropped["near_duplicate"] == 60
    assert summary.rows_out == 120


def test_similarity_is_the_jaccard_index_of_5_grams() -> None:
    one, other = "abcdefgh", "abcdefgx"
    grams = [{t[i : i + 5] for i in range(len(t) - 4)} for t in (one, other)]
    assert jaccard(five_grams(one), five_grams(other)) == len(grams[0] & grams[1]) / len(
        grams[0] | grams[1]
    )
    assert len(five_grams("abc")) == 1
    assert np.array_equal(five_grams("中文五个字"), five_grams("中文五个字"))


def test_the_index_finds_what_comparing_all_finds() -> None:
    rng = random.Random(0)
    texts = []
    for i in range(40):
        words = sentence(40, i)
        texts += [" ".join(words)]
        for _ in range(3):
            copy = list(words)
            for at in rng.sample(range(40), rng.choice([1, 2, 10])):
                copy[at] = "q" * 7
            texts.append(" ".join(copy))
    index = NearIndex(0.8)
    kept: list[int] = []
    missed = 0
    for i, text in enumerate(texts):
        slow = any(jaccard(five_grams(text), five_grams(texts[k])) >= 0.8 for k in kept)
        match = index.add(i, text)
        missed += slow and match is None
        assert not (match and not slow)
        if match is None:
            kept.append(i)
    assert missed <= 2  # MinHash may miss a few near the threshold; it never invents one


def test_leaks_by_hand(tmp_path: Path) -> None:
    words = sentence(60, 5)
    train = write_jsonl(
        tmp_path / "train.jsonl",
        [
            {"prompt": "Who are you?", "completion": "x"},
            {"prompt": " ".join(words), "completion": "y"},
        ],
    )
    near = " ".join(words[:-1])
    evaluation = write_jsonl(
        tmp_path / "eval.jsonl", [{"prompt": "who are  you?"}, {"prompt": near}, {"prompt": "New?"}]
    )
    found = leaks(train, [evaluation])
    assert [(leak.code, leak.where, leak.train_where) for leak in found.found] == [
        ("leak_exact", f"{evaluation}:1", f"{train}:1"),
        ("leak_near", f"{evaluation}:2", f"{train}:2"),
    ]
    out = tmp_path / "leaks.jsonl"
    done = CliRunner().invoke(data, ["leak", str(train), str(evaluation), "--report", str(out)])
    assert done.exit_code == 1
    assert f"{evaluation}:1: 100% in {train}:1\n" in done.output
    assert [(row["line"], row["train_line"]) for row in lines(out)] == [
        (1, 1), (2, 2),
    ]  # fmt: skip
    clean = write_jsonl(tmp_path / "clean.jsonl", [{"prompt": "New?"}])
    assert CliRunner().invoke(data, ["leak", str(train), str(clean)]).exit_code == 0


def test_a_bad_row_ends_a_split(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "q", "chosen": "", "rejected": "b"}])
    with pytest.raises(DataError, match="'chosen' is empty"):
        split(source, tmp_path / "out.jsonl", evaluation=0.1)


@pytest.mark.parametrize(
    "command", ["validate", "stats", "split -o o.jsonl", "dedup --near 0.8 -o o.jsonl", "leak"]
)
def test_long_work_shows_a_bar_with_the_time_left_on_a_terminal_only(
    tmp_path: Path, command: str
) -> None:
    rows = [
        {"prompt": f"{i}?", "chosen": f"{i} is. " * 240_000, "rejected": "b."} for i in range(4)
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    assert source.stat().st_size > 5_000_000
    name, *options = command.split()
    sources = [str(source)] * (2 if name == "leak" else 1)
    call = [sys.executable, "-m", "data_tools", name, *sources, *options]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path, env=environment
    ) as process:
        os.close(theirs)
        drawn = b""
        while block := _read(ours):
            drawn += block
        out = process.stdout.read() if process.stdout else b""
    os.close(ours)
    assert b"MB" in drawn
    assert b"0:00:0" in drawn  # the time left, in the form of rich
    silent = subprocess.run(call, capture_output=True, cwd=tmp_path, env=environment)
    assert silent.stderr == b""
    assert silent.stdout == out


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # how Linux says that the other end of a terminal is closed
        return b""


def words(first: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(first, first + count))


def test_shared_n_grams_by_hand() -> None:
    index = GramIndex({0: words(0, 20), 1: words(100, 13), 2: words(200, 12)})
    assert index.short == 1
    assert index.shared([f"Once {words(0, 13)}, and no more."]) == {0: 1 / 8}  # 8 of 13 in 20 words
    assert index.shared([words(100, 13).upper().replace(" ", ", ")]) == {1: 1.0}
    assert index.shared([words(100, 12), "w112"]) == {}  # not across two texts
    assert index.shared([" ".join(reversed(words(100, 13).split()))]) == {}
    assert GramIndex({0: "一二三四五六七八九十百千万亿"}).shared(
        ["说：一二三四五六七八九十百千万。"]
    ) == {0: 0.5}


def test_n_grams_are_those_that_comparing_all_finds() -> None:
    rng = random.Random(3)
    texts = {i: " ".join(rng.choices("abc", k=30)) for i in range(8)}
    train = " ".join(rng.choices("abcd", k=4000))

    def grams(text: str) -> set[tuple[str, ...]]:
        tokens = text.split()
        return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}

    slow = {i: len(grams(text) & grams(train)) / len(grams(text)) for i, text in texts.items()}
    assert GramIndex(texts, 5).shared([train]) == {i: s for i, s in slow.items() if s}
    assert any(0 < s < 1 for s in slow.values())


def test_templates_do_not_count_as_contamination() -> None:
    template = words(0, 13)
    few = GramIndex({i: f"{template} {words(1000 * i, 3)}" for i in range(1, COMMON + 1)})
    many = GramIndex({i: f"{template} {words(1000 * i, 3)}" for i in range(1, COMMON + 2)})
    assert len(few.shared([template])) == COMMON
    assert many.shared([template]) == {}


def test_a_question_inside_an_answer_is_contamination(tmp_path: Path) -> None:
    question, other = words(0, 30), words(500, 90)
    rows = [
        {"prompt": "Tell me.", "completion": f"The test says: {question}? I know."},
        {"prompt": "Go on.", "completion": words(500, 20)},
    ]
    train = write_jsonl(tmp_path / "train.jsonl", rows)
    evaluation = write_jsonl(
        tmp_path / "eval.jsonl", [{"prompt": p} for p in (question, other, "?")]
    )
    found = leaks(train, [evaluation])
    assert [(leak.code, leak.where, leak.train_where) for leak in found.found] == [
        ("contamination", f"{evaluation}:1", f"{train}:1")
    ]
    assert (found.some, found.short) == (1, 1)  # 8 of 78 n-grams are under a fifth
    call = ["leak", str(train), str(evaluation)]
    done = CliRunner().invoke(data, call)
    assert done.exit_code == 0  # of severity warn: a person must judge
    assert "contamination" in done.output
    for named in ("contamination", "warn", "info"):
        failed = CliRunner().invoke(data, [*call, "--fail-on", named])
        assert failed.exit_code == 1
        assert failed.output.endswith("failed: contamination\n")
    spared = CliRunner().invoke(data, [*call, "--fail-on", "leak_near"])
    assert spared.exit_code == 0
    without = CliRunner().invoke(data, [*call, "--ngram", "0", "--fail-on", "warn"])
    assert without.exit_code == 0


@pytest.mark.parametrize("command", [["validate"], ["leak", "no-such-file.jsonl"]])
def test_a_code_that_is_none_is_refused_before_the_work(command: list[str]) -> None:
    done = CliRunner().invoke(data, [*command, "no-such-file.jsonl", "--fail-on", "leaks"])
    assert done.exit_code == 2
    assert done.output.startswith("error: --fail-on leaks: no such code\n")


@pytest.mark.parametrize("train", ["alpaca_zh_extra", "oaast_sft_zh", "dpo_zh_demo"])
def test_clean_slices_hold_nothing_of_mt_bench(shared_data: Path, train: str) -> None:
    folder = shared_data / "permissive"
    found = leaks(folder / f"{train}.json", [folder / "mt_bench_zh_question.jsonl"])
    assert (found.evaluation, found.found, found.short) == (80, [], 0)
    assert found.some == (train == "alpaca_zh_extra")
