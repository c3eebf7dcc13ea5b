"""Rows as a trainer gets them: tokens and masks, no bookkeeping, no prompt on both sides."""

from pathlib import Path
from typing import Any

import pytest
from support import make_tokenizer, prepare_rows, write_jsonl

from alignment.data.load import load_datasets
from alignment.ppo.prompts import decode_prompts

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
ASKED, ANSWERED = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CHAT = "<|im_start|>user\na<|im_end|><|im_start|>assistant\n{}<|im_end|>"


def constant(completions: list[Any], **_: Any) -> list[float]:
    """A reward for ppo."""
    return [1.0] * len(completions)


def load(stage: str, model: Path, data: list[Path], *flags: str) -> tuple[Any, Any]:
    return load_datasets(*prepare_rows(stage, model, data, *flags))


def text(ids: list[int]) -> str:
    return str(make_tokenizer().decode(ids))


def test_strings_become_turns_if_there_is_a_chat_template(tmp_path: Path, tiny_dir: Path) -> None:
    data = [write_jsonl(tmp_path / "pairs.jsonl", [PAIR])]
    train, held_out = load("rm", tiny_dir, data)
    assert held_out is None
    assert [text(train[0][f"{side}_ids"]) for side in ("chosen", "rejected")] == [
        CHAT.format("b"),
        CHAT.format("c"),
    ]
    bare = load("rm", tiny_dir, data, "--as_chat", "false")[0]
    assert text(bare[0]["chosen_ids"]) == "ab<|im_end|>"


@pytest.mark.parametrize(
    ("stage", "columns"),
    [
        ("sft", {"input_ids", "labels"}),
        ("rm", {"chosen_ids", "rejected_ids"}),
        ("dpo", {"prompt_ids", "chosen_ids", "rejected_ids", "chosen_mask", "rejected_mask"}),
        ("kto", {"prompt_ids", "completion_ids", "completion_mask", "label"}),
    ],
)
def test_bookkeeping_stays_out(
    stage: str, columns: set[str], tmp_path: Path, tiny_dir: Path
) -> None:
    """TRL's reward loss takes a margin column for another loss: none may slip in."""
    extra = {"margin": 2.0, "source": "x", "source_row": 1, "group_id": "g"}
    data = [write_jsonl(tmp_path / "pairs.jsonl", [{**PAIR, **extra}])]
    assert set(load(stage, tiny_dir, data)[0].column_names) == columns


def test_prompts_keep_every_column_for_reward_functions(tmp_path: Path, tiny_dir: Path) -> None:
    data = [write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "a", "answer": "4"}])]
    flags = ["--reward_model", f"{__name__}:constant", "--max_completion_length", "8"]
    train, _ = load("ppo", tiny_dir, data, *flags)
    (row,) = decode_prompts(list(train))
    assert text(row.pop("prompt_ids")) == CHAT.partition("{}")[0]
    assert row == {"prompt": [ASKED], "answer": "4"}


def test_answers_and_conversations_become_one_shape(tmp_path: Path, tiny_dir: Path) -> None:
    one = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}])
    other = write_jsonl(tmp_path / "b.jsonl", [{"messages": [ASKED, ANSWERED]}])
    train, _ = load("sft", tiny_dir, [one, other])
    assert train["input_ids"][0] == train["input_ids"][1]
    assert text(train["input_ids"][0]) == CHAT.format("b")


def test_a_prompt_is_never_on_both_sides(tmp_path: Path, tiny_dir: Path) -> None:
    rows = [{**PAIR, "prompt": f"p{number % 40}", "chosen": str(number)} for number in range(200)]
    data = [write_jsonl(tmp_path / "pairs.jsonl", rows)]
    train, held_out = load("dpo", tiny_dir, data, "--eval_fraction", "0.3")
    sides = [{tuple(row["prompt_ids"]) for row in side} for side in (train, held_out)]
    assert len(train) + len(held_out) == 200
    assert not sides[0] & sides[1]
    assert 30 <= len(held_out) <= 90


def test_the_seed_decides_which_prompts_are_held_out(tmp_path: Path, tiny_dir: Path) -> None:
    rows = [{**PAIR, "prompt": f"p{number}"} for number in range(60)]
    data = [write_jsonl(tmp_path / "pairs.jsonl", rows)]
    held_out = [
        {tuple(row["prompt_ids"]) for row in load("dpo", tiny_dir, data, *flags)[1]}
        for flags in (
            ["--eval_fraction", "0.3", "--seed", "1"],
            ["--eval_fraction", "0.3", "--seed", "1", "--max_length", "99"],
            ["--eval_fraction", "0.3", "--seed", "2"],
        )
    ]
    assert held_out[0] == held_out[1] != held_out[2]


def test_max_rows_draws_from_all_files_by_seed(tmp_path: Path, tiny_dir: Path) -> None:
    data = [
        write_jsonl(tmp_path / f"{n}.jsonl", [{**PAIR, "prompt": f"{n}-{i}"} for i in range(50)])
        for n in range(2)
    ]
    first, second = (
        [
            text(row["prompt_ids"]).split("\n")[1]
            for row in load("dpo", tiny_dir, data, "--max_rows", "20", "--seed", seed)[0]
        ]
        for seed in "12"
    )
    assert len(first) == len(set(first)) == 20
    assert {name[0] for name in first} == {"0", "1"}
    assert first != second
