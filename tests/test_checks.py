"""The stages' own check of their data: exact counts, one summary, refusal before a model is loaded.

The tiny tokenizer spends about a token a byte; a row counts as long or short by a wide margin.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import make_tokenizer, prepare_rows, write_jsonl

from alignment.data.rows import check_rows, select_rows
from alignment.errors import ConfigError, DataError
from alignment.models.folders import load_tokenizer
from alignment.settings.resolve import build, resolve
from alignment.training.run import run_stage

LONG = "abc " * 60
PAIR = {"prompt": "say one", "chosen": "one", "rejected": "no"}
PAIRS = [
    *[{**PAIR, "prompt": f"say {i}"} for i in range(5)],
    {**PAIR, "rejected": "one"},  # equal
    {**PAIR, "chosen": LONG + "one", "rejected": LONG + "no"},  # equal once cut
    {**PAIR, "chosen": LONG},  # one side cut
    {**PAIR, "prompt": LONG},  # the prompt alone fills max_length
]
QUICK = [
    "--max_steps", "1", "--per_device_train_batch_size", "2", "--logging_steps", "1",
    "--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no",
    "--activation_checkpointing", "false",
]  # fmt: skip


def length_is_reward(completions: list[Any], **_: Any) -> list[float]:
    """A rule for ppo."""
    return [float(len(completion[0]["content"])) for completion in completions]


def words(folder: Path, model: Path, rows: list[dict[str, Any]], *more: str) -> list[str]:
    data = write_jsonl(folder / "rows.jsonl", rows)
    named = ["--model_name_or_path", str(model), "--train_data", str(data)]
    return [*named, "--output_dir", str(folder / "out"), *QUICK, *more]


def checks(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "out" / "run.json").read_text())["checks"]
    return record


@pytest.fixture
def unloadable(tmp_path: Path, tiny_dir: Path) -> Path:
    """The tiny model with weights that no loader can read: whoever tries fails otherwise."""
    folder = tmp_path / "unloadable"
    shutil.copytree(tiny_dir, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


def test_dpo_counts_each_fate_of_a_pair(
    tmp_path: Path, tiny_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    held_out = write_jsonl(tmp_path / "held_out.jsonl", [PAIR] * 2)
    more = ["--max_length", "64", "--eval_data", str(held_out)]
    run_stage("dpo", words(tmp_path, tiny_dir, PAIRS, *more))
    found = checks(tmp_path)
    longest = found["train"].pop("longest")
    assert found["train"] == {
        "limit": 64, "rows": 9, "kept": 8, "learnable": 6, "cut": 3, "too_long": 0, "equal": 1,
        "equal_once_cut": 1, "no_loss": 1, "first_too_long": None, "beyond_positions": 0,
    }  # fmt: skip
    assert longest > 64
    assert found["held_out"]["rows"] == found["held_out"]["learnable"] == 2
    out, err = capfd.readouterr()
    assert (
        "train: 9 rows, 8 kept, 3 cut at 64 tokens, 1 equal pairs, 1 equal once cut, 1 no-loss rows"
    ) in out.splitlines()
    assert "held out: 2 rows, 2 kept, 0 cut at 64 tokens" in out
    assert "warning: 33.3% of the train rows are cut at max_length 64" in err
    assert "held out rows are cut" not in err


def test_rm_leaves_long_pairs_out(
    tmp_path: Path, tiny_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_stage("rm", words(tmp_path, tiny_dir, PAIRS, "--max_length", "64"))
    found = checks(tmp_path)["train"]
    counted = {key: found[key] for key in ("rows", "kept", "learnable", "cut", "too_long", "equal")}
    assert counted == {"rows": 9, "kept": 6, "learnable": 5, "cut": 0, "too_long": 3, "equal": 1}
    out, err = capfd.readouterr()
    assert "train: 9 rows, 6 kept, 3 too long for 64 tokens, 1 equal pairs" in out.splitlines()
    assert "33.3% of the train rows are left out" in err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], {"rows": 4, "kept": 3, "cut": 2, "no_loss": 1}),
        (["--loss_on", "all"], {"rows": 4, "kept": 4, "cut": 2, "no_loss": 0}),
        (["--loss_on", "last"], {"rows": 4, "kept": 3, "cut": 2, "no_loss": 1}),
        (["--as_chat", "false"], {"rows": 4, "kept": 3, "cut": 2, "no_loss": 1}),
        (["--max_length", "null"], {"rows": 4, "kept": 4, "cut": 0, "no_loss": 0}),
    ],
)
def test_sft_counts_rows_without_loss(
    more: list[str], expected: dict[str, int], tmp_path: Path, tiny_dir: Path
) -> None:
    rows = [
        {"prompt": "say one", "completion": "one"},
        {"prompt": "say two", "completion": "two"},
        {"prompt": "say long", "completion": LONG},
        {"prompt": LONG, "completion": "long"},
    ]
    run_stage("sft", words(tmp_path, tiny_dir, rows, "--max_length", "64", *more))
    found = checks(tmp_path)["train"]
    assert {key: found[key] for key in expected} == expected


def test_conversations_are_counted_as_they_are_rendered(tmp_path: Path, tiny_dir: Path) -> None:
    ask = {"role": "user", "content": "say one"}
    rows = [
        {"messages": [ask, {"role": "assistant", "content": "one"}]},
        {"messages": [ask, {"role": "assistant", "content": LONG}]},
        {"messages": [{**ask, "content": LONG}, {"role": "assistant", "content": "one"}]},
    ]
    run_stage("sft", words(tmp_path, tiny_dir, rows, "--max_length", "64"))
    found = checks(tmp_path)["train"]
    assert (found["rows"], found["kept"], found["cut"], found["no_loss"]) == (3, 2, 2, 1)


@pytest.mark.parametrize(
    ("more", "share"),
    [([], "assistant 50%"), (["--loss_on", "all"], "assistant 50%")],
    ids=["assistant", "all"],
)
def test_the_share_of_tokens_with_loss_is_one_line_by_role(
    more: list[str], share: str, tmp_path: Path, tiny_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ask: dict[str, Any] = {"role": "user", "content": "say"}
    reply: dict[str, Any] = {"role": "assistant", "content": "one two"}
    turns = [ask, {**reply, "weight": 0}, ask, reply]
    data = write_jsonl(tmp_path / "chats.jsonl", [{"messages": turns}] * 4)
    check_rows(*prepare_rows("sft", tiny_dir, [data], *more))
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "carry loss" in line]
    text = str(make_tokenizer().apply_chat_template(turns, tokenize=False))
    total = 4 * len(make_tokenizer()(text)["input_ids"])
    assert re.fullmatch(rf"train: \d+% of {total} tokens carry loss \(.*\)", line)
    assert share in line
    other = "100%" if more else "0%"
    assert f"template {other}, user {other}" in line


@pytest.mark.parametrize(
    ("more", "cut"),
    [([], 1), (["--packing"], 1), (["--packing", "--packing_strategy", "bfd_split"], 0)],
    ids=["plain", "packed", "split"],
)
def test_pt_counts_what_packing_throws_away(
    more: list[str], cut: int, tmp_path: Path, tiny_dir: Path
) -> None:
    rows = [{"text": "one"}, {"text": "two"}, {"text": LONG}]
    more = [*more, "--max_length", "64", "--use_cpu"]
    run_stage("pt", words(tmp_path, tiny_dir, rows, *more))
    found = checks(tmp_path)["train"]
    assert (found["rows"], found["kept"], found["cut"]) == (3, 3, cut)


def test_ppo_refuses_prompts_that_leave_no_room(tmp_path: Path, unloadable: Path) -> None:
    rows = [{"prompt": "say one"}, {"prompt": "say two"}, {"prompt": LONG * 3}]
    more = ["--reward_model", f"{__name__}:length_is_reward", "--max_completion_length", "8"]
    with pytest.raises(
        DataError, match=r"1 of 3 prompts leave no room for 8 .*\.jsonl:3; .* 504 fit"
    ):
        run_stage("ppo", words(tmp_path, unloadable, rows, *more))
    assert not (tmp_path / "out" / "run.json").exists()  # the next start needs no --overwrite


@pytest.mark.parametrize(
    ("stage", "rows", "more", "message"),
    [
        ("dpo", [{**PAIR, "rejected": "one"}] * 4, [], "4 equal pairs"),
        ("rm", [{**PAIR, "rejected": "one"}] * 4, [], "4 equal pairs"),
        ("dpo", [{**PAIR, "prompt": LONG}] * 4, ["--max_length", "32"], "4 no-loss rows"),
        ("dpo", [PAIRS[5], PAIRS[6], PAIRS[8]], ["--max_length", "64"], "1 equal once cut"),
        ("rm", [{**PAIR, "prompt": LONG}] * 4, ["--max_length", "32"], "4 too long for 32"),
        ("sft", [{"prompt": LONG, "completion": "a"}] * 4, ["--max_length", "32"], "4 no-loss"),
    ],
)
def test_a_stage_refuses_where_nothing_is_left_to_learn(
    stage: str, rows: list[dict[str, Any]], more: list[str], message: str, tmp_path: Path,
    unloadable: Path,
) -> None:  # fmt: skip
    with pytest.raises(DataError, match=f"nothing is left to learn: .*{message}"):
        run_stage(stage, words(tmp_path, unloadable, rows, *more))


def test_held_out_rows_must_be_of_use_too(tmp_path: Path, unloadable: Path) -> None:
    held_out = write_jsonl(tmp_path / "held_out.jsonl", [{**PAIR, "rejected": "one"}])
    with pytest.raises(DataError, match="held out data: nothing is left"):
        run_stage("dpo", words(tmp_path, unloadable, [PAIR], "--eval_data", str(held_out)))


def test_equal_pairs_still_teach_the_answer_where_the_loss_has_sft(
    tmp_path: Path, tiny_dir: Path
) -> None:
    rows = [{**PAIR, "rejected": "one"}] * 2
    run_stage("dpo", words(tmp_path, tiny_dir, rows, "--loss_type", "sigmoid", "sft"))
    assert checks(tmp_path)["train"]["learnable"] == 0


@pytest.mark.parametrize("key", ["assistant_only_loss", "completion_only_loss"])
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["false"], "false asks for loss on every token"),
        (["true", "--loss_on", "all"], "true, but"),
    ],
)
def test_keys_of_trl_cannot_ask_for_another_mask(
    key: str, more: list[str], reason: str, tmp_path: Path, unloadable: Path
) -> None:
    rows = [{"prompt": "say one", "completion": "one"}]
    with pytest.raises(ConfigError, match=f"{key}: {reason}"):
        run_stage("sft", words(tmp_path, unloadable, rows, f"--{key}", *more))


@pytest.mark.parametrize("stage", ["sft", "dpo", "rm", "kto"])
@pytest.mark.parametrize("chat", ["true", "false"])
def test_kept_is_what_trl_keeps(stage: str, chat: str, tmp_path: Path, tiny_dir: Path) -> None:
    """Rows of every length around the limit, counted here and by TRL itself."""
    from datasets import Dataset
    from trl import DPOTrainer, KTOTrainer, RewardTrainer, SFTTrainer

    pairs: list[dict[str, Any]] = [
        {"prompt": "x" * n, "chosen": "y" * m, "rejected": "z" * 3}
        for n in (1, 20, 29, 30, 31, 32, 33, 60)
        for m in (1, 2, 5, 11, 40)
    ]
    raw: list[dict[str, Any]] = pairs
    if stage in ("sft", "kto"):
        raw = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    if chat == "true":
        raw = [
            {
                key: [{"role": "user" if key == "prompt" else "assistant", "content": text}]
                for key, text in row.items()
            }
            for row in raw
        ]
    if stage == "kto":
        raw = [{**row, "label": True} for row in raw]
    flags = ["--max_length", "32", "--as_chat", chat]
    data = write_jsonl(tmp_path / "pairs.jsonl", raw)
    kept = select_rows(*prepare_rows(stage, tiny_dir, [data], *flags))["train"].kept
    trainer: Any = {
        "sft": SFTTrainer,
        "dpo": DPOTrainer,
        "rm": RewardTrainer,
        "kto": KTOTrainer,
    }[stage]
    args = build(resolve(stage, words(tmp_path, tiny_dir, pairs, *flags)))[-1]
    theirs = trainer(
        str(tiny_dir),
        args=args,
        train_dataset=Dataset.from_list(raw),
        processing_class=load_tokenizer(str(tiny_dir)),
    )
    assert 0 < len(kept) < len(raw)
    assert len(kept) == len(theirs.train_dataset)
