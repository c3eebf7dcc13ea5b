"""Inputs that went wrong once, as a table of file x outcome.

The files are in the shared folder, not in this repository; `test_columns.py` holds the same rules
on inputs of its own.
"""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from support import REPOSITORY

from data_tools.cli import data

BOOKKEEPING = {"source", "source_row", "group_id"}
ADVICE = re.compile(r"--columns ('.*?'|\S+)")


class Written(NamedTuple):
    """What `align data convert` makes of a file.

    Attributes:
        shape: The shape of its rows.
        row: The first of them, without the columns that `convert` adds.
        said: What it prints.
    """

    shape: str
    row: dict[str, Any]
    said: tuple[str, ...] = ()


class Refused(NamedTuple):
    """Why `align data convert` refuses a file.

    Attributes:
        said: What it prints.
        advised: The first row of the output if its advice is followed; None: it gives no option.
    """

    said: tuple[str, ...]
    advised: dict[str, Any] | None = None


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


HI = {"prompt": [user("hi")], "chosen": [bot("yo")], "rejected": [bot("no")]}
SUM = {"prompt": "2+2?", "completion": "4"}
SUMS = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
ABC = {"prompt": "a", "chosen": "b", "rejected": "c"}
LIGHT = {"prompt": "解释光合作用", "completion": "植物把光变成化学能。?"}
LIGHT_UTF = {"prompt": "解释光合作用", "completion": "植物把光变成化学能。😀"}
CASES: dict[str, Written | Refused] = {
    "kto_int_label.jsonl": Written("kto", {"prompt": "Hi", "completion": "Hello", "label": True}),
    "kto.csv": Written("kto", {"prompt": "Hi", "completion": "Hello", "label": True}),
    "swift_query_history.jsonl": Written(
        "sft",
        {
            "messages": [
                system("You are terse."),
                user("How is Oslo in summer?"),
                bot("Mild."),
                user("And in winter?"),
                bot("Cold."),
            ]
        },
    ),
    "alpaca_system_prompt.jsonl": Written(
        "sft", {"messages": [system("Be terse."), user("Hi"), bot("Hi.")]}
    ),
    "pair_system_prompt.jsonl": Written(
        "pairs",
        {
            "prompt": [system("Be terse."), user("Hi")],
            "chosen": [bot("Hi.")],
            "rejected": [bot("Hello there friend")],
        },
    ),
    "pair_input.jsonl": Written(
        "pairs",
        {"prompt": "Translate to French\ngood day", "chosen": "bonjour", "rejected": "hola"},
    ),
    "alpaca_lf_system_history.jsonl": Written(
        "sft", {"messages": [system("S"), user("a"), bot("b"), user("c\nin"), bot("d")]}
    ),
    "messages_tools.jsonl": Written(
        "sft",
        {
            "messages": [
                user("Weather?"),
                bot(
                    "",
                    tool_calls=[
                        {
                            "type": "function",
                            "function": {"name": "w", "arguments": {"c": "Oslo"}},
                        }
                    ],
                ),
                {"role": "tool", "content": "3", "name": "w"},
                bot("3 degrees"),
            ],
            "tools": [{"type": "function", "function": {"name": "w", "parameters": {}}}],
        },
    ),
    "sharegpt_tools.jsonl": Written(
        "sft",
        {
            "messages": [
                user("Weather in Oslo?"),
                bot(
                    "",
                    tool_calls=[
                        {
                            "type": "function",
                            "function": {"name": "weather", "arguments": {"city": "Oslo"}},
                        }
                    ],
                ),
                {"role": "tool", "content": '{"t":3}'},
                bot("3 degrees"),
            ],
            "tools": [{"name": "weather"}],
        },
    ),
    "reasoning_content.jsonl": Written(
        "sft",
        {"messages": [user("2+2?"), bot("4", reasoning_content="Two and two make four.")]},
    ),
    "chat_template_kwargs.jsonl": Written(
        "sft",
        {
            "messages": [user("2+2?"), bot("4")],
            "chat_template_kwargs": {"enable_thinking": False},
        },
    ),
    "lf_images.jsonl": Refused((":1: 'images' holds", "only text is learned")),
    "assistant_weight.jsonl": Written(
        "sft",
        {"messages": [user("2+2?"), bot("5", weight=0), user("no"), bot("4", weight=1)]},
    ),
    "swift_rejected_messages.jsonl": Written("pairs", HI),
    "axolotl_chat_tmpl_dpo.jsonl": Written("pairs", HI),
    "axolotl_chosen.jsonl": Written("pairs", {**HI, "prompt": [system("S"), user("hi")]}),
    "axolotl_conversation.jsonl": Written("sft", {"messages": [user("hi"), bot("yo")]}),
    "messages_chosen_rejected_ids.jsonl": Written(
        "pairs",
        {
            "prompt": [system("S"), user("你好")],
            "chosen": [bot("你好！")],
            "rejected": [bot("走开")],
        },
    ),
    "completions_models.jsonl": Refused((":1:", "'completions'"), SUMS),
    "win_lose.jsonl": Refused((":1:", "'win', 'lose'"), SUMS),
    "pku.csv": Written("pairs", {"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}),
    "text_response.jsonl": Refused((":1:", "'text', 'response'"), SUM),
    "prompt_text_extra.jsonl": Refused((":1:", "'text', 'outputs'"), SUM),
    "unknown_cols.jsonl": Refused((":1:", "'answer_good', 'answer_bad'"), SUMS),
    "chosen_bad.jsonl": Refused(
        (":1: conversation[0] has no role", "'conversation'"),
        {"prompt": "hi", "completion": "hello"},
    ),
    "input_output.jsonl": Refused((":1:", "'input', 'output'"), {"prompt": "x", "completion": "y"}),
    "context_target.jsonl": Refused(
        (":1:", "'context', 'target'"),
        {"prompt": "Instruction: hi\nAnswer: ", "completion": "hello"},
    ),
    "gsm_solution.jsonl": Refused(
        (":1: no turn of the assistant", "'solution'"), {"messages": [user("2+2?"), bot("4")]}
    ),
    "output_list_not_ranked.jsonl": Refused(
        (":1: 'output' is a list of answers", "--format alpaca-ranked"),
        {"prompt": "Name a thing", "completion": "A cup."},
    ),
    "ppo_zh.jsonl": Refused(
        (":1:", "'问题', '好回答', '坏回答'"),
        {"prompt": "二加二", "chosen": "四", "rejected": "五"},
    ),
    "helpsteer3.jsonl": Written(
        "pairs", {**HI, "margin": 2.0}, ("not used         2  domain", "2  language")
    ),
    "nemo_rl_pref.jsonl": Written("pairs", {**HI, "margin": 1.0}),
    "orpo_mix.jsonl": Written("pairs", HI, ("not used         2  source",)),
    "lima_multi.jsonl": Written(
        "sft", {"messages": [user("hi"), bot("yo"), user("again"), bot("sure")]}
    ),
    "multi_turn_pref.jsonl": Written(
        "pairs",
        {
            "prompt": [system("S"), user("a"), bot("b"), user("c")],
            "chosen": [bot("good")],
            "rejected": [bot("bad")],
        },
    ),
    "same_first_turn.jsonl": Written(
        "sft",
        {
            "messages": [
                user("Can you convert money?"),
                bot("Yes, which?"),
                user("5 EUR to USD"),
                bot("5.4"),
            ]
        },
    ),
    "null_rejected.jsonl": Refused((":1:", "'rejected' is null")),
    "null_system.jsonl": Written("pairs", ABC),
    "alpaca_gbk.csv": Written("sft", LIGHT, ("encoding gb18030 (detected) of",)),
    "alpaca_gbk.json": Written("sft", LIGHT, ("encoding gb18030 (detected) of",)),
    "alpaca_gbk.jsonl": Written("sft", LIGHT, ("encoding gb18030 (detected) of",)),
    "alpaca_utf-16.csv": Written("sft", LIGHT_UTF, ("encoding utf-16 (byte order mark) of",)),
    "alpaca_utf-16.jsonl": Written("sft", LIGHT_UTF, ("encoding utf-16 (byte order mark) of",)),
    "alpaca_utf-8-sig.csv": Written("sft", LIGHT_UTF, ("2 rows in, 2 out",)),
    "alpaca_utf-8-sig.json": Written("sft", LIGHT_UTF, ("2 rows in, 2 out",)),
    "alpaca_utf-8-sig.jsonl": Written("sft", LIGHT_UTF, ("2 rows in, 2 out",)),
    "pt.txt": Written("text", {"text": "第一段。"}, ("2 rows in, 2 out",)),
    "ptdir": Written("text", {"text": "one"}, ("2 rows in, 2 out",)),
    "saved": Written("pairs", {"prompt": "a", "chosen": "c", "rejected": "e"}, ("2 rows in",)),
    "hfrepo": Written("pairs", {"prompt": "a", "chosen": "c", "rejected": "e"}, ("1 rows in",)),
    "shards": Written("pairs", {"prompt": "p0a", "chosen": "c", "rejected": "e"}, ("6 rows in",)),
    "mixed_folder": Refused(
        ("mixes JSON array (b.json) and JSON lines", "name the files one by one")
    ),
    "split_dict.json": Written("pairs", ABC, ("1 rows in, 1 out",)),
    "wrapped.json": Written("sft", {"prompt": "a", "completion": "b"}),
    "wrapped_many.json": Written("sft", {"prompt": "a", "completion": "b"}),
    "single_object.json": Written("sft", {"prompt": "a", "completion": "b"}),
    "indented_single.json": Written("sft", {"prompt": "a", "completion": "b"}),
    "columns.json": Written("pairs", {"prompt": "a", "chosen": "c", "rejected": "e"}, ("2 out",)),
    "concat.json": Written("pairs", ABC, ("2 rows in, 2 out",)),
    "comments.jsonc": Refused((":1: this is a comment", "grep -v '^ *//'")),
    "capital_header.csv": Written("pairs", ABC),
    "excel_bom_crlf.csv": Written(
        "pairs", {"prompt": 'a "q" b', "chosen": "x\r\ny", "rejected": "z"}
    ),
    "excel_sep.csv": Written("pairs", ABC),
    "excel_trailing_col.csv": Written("pairs", ABC),
    "semicolon.csv": Written("pairs", {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}),
    "loose_quotes.csv": Refused((":3: not CSV", "put the field in quotes and double those")),
    "pandas_repr.csv": Written(
        "pairs", {"prompt": [user("hi")], "chosen": [bot("a")], "rejected": [bot("b")]}
    ),
    "mixed_string_list.jsonl": Written(
        "pairs", {"prompt": [user("a")], "chosen": [bot("b")], "rejected": [bot("c")]}
    ),
    "blank_lines.jsonl": Refused((":4:39: not JSON",)),
    "trailing_comma.json": Refused((":3:34: a comma before the ]", "delete the last comma")),
    "nan.jsonl": Refused((":1:58: not JSON",)),
    "ties90.jsonl": Written(
        "pairs",
        {"prompt": "r0", "chosen": "yes 0", "rejected": "no 0", "margin": 2.0},
        ("90  tie", "100 rows in, 10 out"),
    ),
}
CHECKED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "blank_lines.jsonl": (("50.0%  malformed", "blank_lines.jsonl:4:39 (row 2): not JSON"), ()),
    "trailing_comma.json": (("33.3%  malformed", "trailing_comma.json:3:34 (row 3): a comma"), ()),
    "nan.jsonl": (("100.0%  malformed", "nan.jsonl:1:58 (row 1): not JSON"), ()),
    "ties90.jsonl": (("100 rows, 10 records", "90  90.0%  tie"), ()),
    "sentinels.jsonl": (
        ("3 100.0%  sentinel_input", "sentinels.jsonl:1 (row 1)", "1  33.3%  sentinel_output"),
        (),
    ),
    "emoji_zwj.jsonl": ((), ("zero_width_or_control",)),
    "example_mail.jsonl": ((), ("pii_email", "pii_ipv4")),
}
"""What `align data validate` prints for a file, and what it does not."""


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The inputs that went wrong; a test that needs them skips if they are absent."""
    default = REPOSITORY.parent / "shared" / "cases" / "data"
    folder = Path(os.environ.get("ALIGN_SHARED_CASES", default))
    if not folder.is_dir():
        pytest.skip(f"the inputs are not at {folder} (set ALIGN_SHARED_CASES)")
    return folder


def converted(source: Path, output: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """The exit code of `align data convert`, what it prints, and the first row of its output."""
    done = CliRunner().invoke(data, ["convert", str(source), "-o", str(output), *options])
    assert "Traceback" not in done.output, done.output
    lines = output.read_text("utf-8").splitlines() if output.is_file() else []
    row = json.loads(lines[0]) if lines else {}
    made = {key: value for key, value in row.items() if key not in BOOKKEEPING}
    return done.exit_code, done.output, made


@pytest.mark.parametrize("name", CASES)
def test_an_input_that_went_wrong(name: str, shared_cases: Path, tmp_path: Path) -> None:
    wanted, source, output = CASES[name], shared_cases / name, tmp_path / "out.jsonl"
    code, printed, row = converted(source, output)
    assert [one for one in wanted.said if one not in printed] == [], printed
    if isinstance(wanted, Written):
        assert (code, row) == (0, wanted.row), printed
        assert f"out.jsonl ({wanted.shape})" in printed
        return
    assert (code, row) == (2, {}), printed
    assert f"error: {source}" in printed
    if wanted.advised is not None:
        advice = ADVICE.search(printed)
        assert advice is not None, printed
        columns = shlex.split(advice[1])[0]
        assert converted(source, output, "--columns", columns)[::2] == (0, wanted.advised)


@pytest.mark.parametrize("name", CHECKED)
def test_what_is_found_in_an_input(name: str, shared_cases: Path) -> None:
    found, absent = CHECKED[name]
    printed = CliRunner().invoke(data, ["validate", str(shared_cases / name)]).output
    assert [one for one in found if one not in printed] == [], printed
    assert [one for one in absent if one in printed] == [], printed
