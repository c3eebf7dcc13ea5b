"""Rows as a trainer will see them: one shape, no bookkeeping, no prompt on both sides."""

from pathlib import Path
from typing import Any

from support import make_tokenizer, write_jsonl

from alignment.data.load import load_datasets
from alignment.settings.args import DataArgs

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def load(path: Path, kind: str, **keys: Any) -> tuple[Any, Any]:
    data = DataArgs(train_data=[str(path)], **keys)
    return load_datasets(data, kind=kind, tokenizer=make_tokenizer(), seed=3)


def test_strings_become_messages_where_there_is_a_chat_template(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [PAIR])
    train, held_out = load(path, "preference")
    assert held_out is None
    assert train[0] == {
        "prompt": [{"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "c"}],
    }
    assert load(path, "preference", as_chat=False)[0][0] == PAIR


def test_bookkeeping_stays_out(tmp_path: Path) -> None:
    """TRL's reward loss takes a margin column for another loss: none may slip in."""
    extra = {"margin": 2.0, "source": "x", "source_row": 1, "group_id": "g"}
    path = write_jsonl(tmp_path / "pairs.jsonl", [{**PAIR, **extra}])
    assert set(load(path, "preference")[0].column_names) == set(PAIR)


def test_prompts_keep_every_column_for_reward_functions(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "a", "answer": "4"}])
    assert load(path, "prompt")[0][0]["answer"] == "4"


def test_answers_and_conversations_become_one_shape(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}])
    write_jsonl(tmp_path / "b.jsonl", [{"messages": turns}])
    data = DataArgs(train_data=[str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    train, _ = load_datasets(data, kind="sft", tokenizer=make_tokenizer(), seed=3)
    assert train["messages"][0] == train["messages"][1] == turns


def test_a_prompt_never_stands_on_both_sides(tmp_path: Path) -> None:
    rows = [{**PAIR, "prompt": f"p{number % 40}", "chosen": str(number)} for number in range(200)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    train, held_out = load(path, "preference", eval_fraction=0.3)
    sides = [{row["prompt"][0]["content"] for row in side} for side in (train, held_out)]
    assert len(train) + len(held_out) == 200
    assert not sides[0] & sides[1]
    assert 30 <= len(held_out) <= 90


def test_max_rows_draws_from_all_files_by_seed(tmp_path: Path) -> None:
    paths = [
        str(
            write_jsonl(
                tmp_path / f"{n}.jsonl", [{**PAIR, "prompt": f"{n}-{i}"} for i in range(50)]
            )
        )
        for n in range(2)
    ]
    data = DataArgs(train_data=paths, max_rows=20)
    first, second = (
        load_datasets(data, kind="preference", tokenizer=make_tokenizer(), seed=seed)[0]
        for seed in (1, 2)
    )
    drawn = [row["prompt"][0]["content"] for row in first]
    assert len(drawn) == len(set(drawn)) == 20
    assert {name[0] for name in drawn} == {"0", "1"}
    assert drawn != [row["prompt"][0]["content"] for row in second]
