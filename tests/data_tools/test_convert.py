"""Conversion: exact counts on real slices, pairing by hand, and nothing lost in silence."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import xxhash
from click.testing import CliRunner
from support import write_jsonl

from alignment.errors import ConfigError, DataError
from data_tools.checks.validate import validate
from data_tools.cli import data
from data_tools.convert import output
from data_tools.convert.output import Summary, dropped_path
from data_tools.convert.repairs import Repairs, decoded
from data_tools.convert.run import convert
from data_tools.convert.writer import Conversion
from data_tools.formats import Pairing, Record, is_sentinel, pairs_of
from data_tools.reading import json_rows

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def run(sources: list[Path], out: Path, *, repairs: Repairs | None = None, **kw: Any) -> Summary:
    (summary,) = convert([str(s) for s in sources], out, Conversion(**kw), repairs=repairs)
    return summary


@pytest.mark.parametrize(
    ("name", "pairing", "rows_in", "rows_out", "dropped"),
    [
        # 775 rankings of 2 to 10 answers: 1809 pairs, 6 of equal answers, 3 of best and worst
        ("permissive/oaast_rm_zh.json", "best-vs-worst", 775, 772, {"chosen_eq_rejected": 3}),
        ("permissive/oaast_rm_zh.json", "all-pairs", 775, 1803, {"chosen_eq_rejected": 6}),
        ("permissive/oaast_rm_zh.json", "adjacent", 775, 1212, {"chosen_eq_rejected": 6}),
        ("permissive/oaast_rm_zh.json", "best-vs-rest", 775, 1215, {"chosen_eq_rejected": 3}),
        ("permissive/oa_en_100_tree.jsonl", "best-vs-worst", 100, 212, {"unranked": 2}),
        ("permissive/oa_en_100_tree.jsonl", "all-pairs", 100, 754, {"unranked": 2}),
        (
            "permissive/hh_harmless_test.jsonl.gz",
            "best-vs-worst",
            2312,
            2303,
            {"empty_chosen": 4, "prompt_mismatch": 5},
        ),
        ("permissive/dpo_zh_demo.json", "best-vs-worst", 300, 300, {}),
        ("permissive/kto_en_demo.json", "best-vs-worst", 300, 300, {}),
        ("permissive/alpaca_zh_extra.json", "best-vs-worst", 1513, 1513, {}),
        ("derived/huozi_shape.csv", "best-vs-worst", 383, 382, {"chosen_eq_rejected": 1}),
        ("derived/huozi_shape.json", "best-vs-worst", 383, 382, {"chosen_eq_rejected": 1}),
        ("derived/huozi_shape.bom.crlf.csv", "best-vs-worst", 102, 101, {"empty_chosen": 1}),
        ("derived/rlhf_single_round_en.jsonl", "best-vs-worst", 642, 639, {"empty_chosen": 3}),
        ("derived/rlhf_single_round_zh.test.parquet", "best-vs-worst", 77, 77, {}),
        ("sharealike/stack_exchange_paired_tiny.json", "best-vs-worst", 25, 25, {}),
    ],
)
def test_real_slices_have_these_counts(
    shared_data: Path,
    tmp_path: Path,
    name: str,
    pairing: str,
    rows_in: int,
    rows_out: int,
    dropped: dict[str, int],
) -> None:
    out = tmp_path / "out.jsonl"
    summary = run([shared_data / name], out, pairing=Pairing(pairing, max_pairs=100))
    assert (summary.rows_in, summary.rows_out, summary.dropped) == (rows_in, rows_out, dropped)
    assert len(rows_of(out)) == rows_out
    if dropped:
        lost = rows_of(dropped_path(out))
        assert Counter(row["code"] for row in lost) == dropped
        assert all(row["source"] and row["row"] > 0 and row["reason"] for row in lost)
    else:
        assert not dropped_path(out).exists()


def test_csv_and_json_of_one_set_give_the_same_rows(shared_data: Path, tmp_path: Path) -> None:
    def texts(name: str) -> list[tuple[str, str, str]]:
        out = tmp_path / "out.jsonl"
        run([shared_data / "derived" / name], out)
        return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows_of(out)]

    assert texts("huozi_shape.csv") == texts("huozi_shape.json")


def test_train_and_test_are_kept_apart(shared_data: Path, tmp_path: Path) -> None:
    files = [str(f) for f in sorted((shared_data / "derived").glob("*.parquet"))]
    apart = convert(files, tmp_path / "out.jsonl", Conversion())
    assert [(s.output.name, s.rows_out) for s in apart] == [
        ("out.test.jsonl", 77),
        ("out.train.jsonl", 305),
    ]
    (merged,) = convert(files, tmp_path / "all.jsonl", Conversion(merge_splits=True))
    assert merged.rows_out == 382


SCORED = Record("ranked", "q", answers=("a", "b", "c", "d"), scores=(1.0, 4.0, 4.0, 2.0))
ORDERED = Record("ranked", "q", answers=("a", "b", "c"))


def made(record: Record, **kw: Any) -> tuple[list[tuple[Any, Any, Any]], list[str]]:
    pairs, dropped = pairs_of(record, Pairing(**kw))
    return [(p.chosen, p.rejected, p.margin) for p in pairs], [why.code for why in dropped]


@pytest.mark.parametrize(
    ("options", "pairs", "dropped"),
    [
        ({"policy": "best-vs-worst"}, [("b", "a", 3.0)], []),
        (
            {"policy": "all-pairs"},
            [("b", "d", 2.0), ("b", "a", 3.0), ("c", "d", 2.0), ("c", "a", 3.0), ("d", "a", 1.0)],
            ["tie"],
        ),
        ({"policy": "adjacent"}, [("c", "d", 2.0), ("d", "a", 1.0)], ["tie"]),
        ({"policy": "best-vs-rest"}, [("b", "d", 2.0), ("b", "a", 3.0)], ["tie"]),
        ({"policy": "best-vs-rest", "min_margin": 2.5}, [("b", "a", 3.0)], ["tie", "min_margin"]),
        (
            {"policy": "all-pairs", "max_pairs": 2},
            [("b", "d", 2.0), ("b", "a", 3.0)],
            ["over_cap"] * 4,
        ),
    ],
)
def test_policies_by_hand(options: dict[str, Any], pairs: list[Any], dropped: list[str]) -> None:
    # best first: b 4, c 4, d 2, a 1
    assert made(SCORED, **options) == (pairs, dropped)


def test_ranks_have_no_margin_and_fail_a_least_one() -> None:
    assert made(ORDERED, policy="adjacent") == ([("a", "b", None), ("b", "c", None)], [])
    assert made(ORDERED, min_margin=1.0) == ([], ["no_margin"])


def test_the_random_policy_keeps_its_draw_and_avoids_ties() -> None:
    draws = {made(SCORED, policy="best-vs-random", seed=seed)[0][0][:2] for seed in range(40)}
    assert draws == {("b", "d"), ("b", "a")}
    assert made(SCORED, policy="best-vs-random", seed=3) == made(
        SCORED, policy="best-vs-random", seed=3
    )


def test_a_margin_below_zero_or_a_tie_is_dropped(tmp_path: Path) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    margins = [1.5, 0, -2, None]
    source = write_jsonl(tmp_path / "in.jsonl", [{**pair, "margin": m} for m in margins])
    summary = run([source], tmp_path / "out.jsonl")
    assert summary.dropped == {"tie": 1, "negative_margin": 1}
    assert [row.get("margin") for row in rows_of(summary.output)] == [1.5, None]


def test_a_row_of_output(tmp_path: Path) -> None:
    row = {"prompt": "问", "chosen": "好", "rejected": "坏", "other": 1}
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    run([source], tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text("utf-8")
    group = xxhash.xxh3_128_hexdigest("问".encode())
    assert text == (
        '{"prompt":"问","chosen":"好","rejected":"坏","source":"in.jsonl","source_row":1,'
        f'"group_id":"{group}"}}\n'
    )


@pytest.mark.parametrize("to", ["pairs", "sft", "kto", "prompts", "llamafactory", "openai"])
def test_converted_twice_gives_the_same_bytes(shared_data: Path, tmp_path: Path, to: str) -> None:
    source = shared_data / "permissive/dpo_en_demo.json"
    one, two = (run([source], tmp_path / f"{i}.jsonl", to=to).output for i in range(2))
    assert one.read_bytes() == two.read_bytes()


U, A, B = (
    {"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
)


@pytest.mark.parametrize(
    ("to", "wanted"),
    [
        ("pairs", [{"prompt": "q", "chosen": "a", "rejected": "b"}]),
        ("sft", [{"prompt": "q", "completion": "a"}]),
        (
            "kto",
            [
                {"prompt": "q", "completion": "a", "label": True},
                {"prompt": "q", "completion": "b", "label": False},
            ],
        ),
        ("prompts", [{"prompt": "q"}]),
        (
            "llamafactory",
            [
                {
                    "conversations": [{"from": "human", "value": "q"}],
                    "chosen": {"from": "gpt", "value": "a"},
                    "rejected": {"from": "gpt", "value": "b"},
                }
            ],
        ),
        (
            "openai",
            [
                {
                    "input": {"messages": [U], "tools": [], "parallel_tool_calls": True},
                    "preferred_output": [A],
                    "non_preferred_output": [B],
                }
            ],
        ),
    ],
)
def test_a_pair_in_every_shape(tmp_path: Path, to: str, wanted: list[Row]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    run([source], tmp_path / "out.jsonl", to=to)
    added = {"source", "source_row", "group_id"}
    found = [
        {k: v for k, v in row.items() if k not in added} for row in rows_of(tmp_path / "out.jsonl")
    ]
    assert found == wanted


@pytest.mark.parametrize("to", ["llamafactory", "openai", "kto", "pairs"])
def test_what_is_written_is_read_back(shared_data: Path, tmp_path: Path, to: str) -> None:
    first = run([shared_data / "permissive/dpo_zh_demo.json"], tmp_path / "a.jsonl", to=to)
    again = run([first.output], tmp_path / "b.jsonl", to="pairs", pairing=Pairing(max_pairs=1))
    direct = run([shared_data / "permissive/dpo_zh_demo.json"], tmp_path / "c.jsonl")
    keys = ("prompt", "chosen", "rejected")
    one, other = (
        [{k: r[k] for k in keys} for r in rows_of(p)] for p in (again.output, direct.output)
    )
    if to == "kto":  # repeated prompts make one group, so only the set is the same
        assert {json.dumps(r) for r in one} <= {json.dumps(r) for r in other}
        assert len(one) == 289
    else:
        assert one == other


def test_likes_and_dislikes_make_pairs_and_the_rest_is_counted(tmp_path: Path) -> None:
    judged = [("q", "a", True), ("q", "b", False), ("r", "c", True), ("q", "d", True)]
    source = write_jsonl(
        tmp_path / "in.jsonl",
        [{"prompt": p, "completion": c, "label": label} for p, c, label in judged],
    )
    summary = run([source], tmp_path / "out.jsonl", to="pairs")
    assert summary.dropped == {"one_sided": 1}
    assert [(r["chosen"], r["rejected"]) for r in rows_of(summary.output)] == [
        ("a", "b"),
        ("d", "b"),
    ]


def test_rows_of_text_and_conversations_make_one_shape(tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl",
        [
            {"instruction": "q", "input": "", "output": "a"},
            {"instruction": "q", "input": "", "output": "a", "history": [["x", "y"]]},
        ],
    )
    summary = run([source], tmp_path / "out.jsonl")
    assert summary.unified == 1
    assert [len(row["messages"]) for row in rows_of(summary.output)] == [2, 4]


def test_answers_on_rows_of_their_own_are_gathered(tmp_path: Path) -> None:
    rows = [("q", "a", 4), ("q", "b", 1), ("r", "c", 2), ("r", "d", 2), ("s", "e", 3)]
    source = write_jsonl(
        tmp_path / "in.jsonl",
        [
            {"prompt": p, "response": a, "helpfulness": h, "correctness": 0, "verbosity": 1}
            for p, a, h in rows
        ],
    )
    summary = run([source], tmp_path / "out.jsonl")
    assert summary.dropped == {"tie": 1, "one_answer": 1}
    assert [(r["chosen"], r["rejected"], r["margin"]) for r in rows_of(summary.output)] == [
        ("a", "b", 3)
    ]


def test_flat_messages_become_trees(tmp_path: Path) -> None:
    flat = [
        ("1", None, "q", "prompter", None),
        ("2", "1", "bad", "assistant", 1),
        ("4", None, "other", "prompter", None),
        ("3", "1", "good", "assistant", 0),
    ]
    source = write_jsonl(
        tmp_path / "in.jsonl",
        [
            {"message_id": m, "parent_id": p, "text": t, "role": role, "rank": rank, "lang": "en"}
            for m, p, t, role, rank in flat
        ],
    )
    summary = run([source], tmp_path / "out.jsonl")
    assert summary.dropped == {"one_answer": 1}
    (row,) = rows_of(summary.output)
    assert (row["prompt"][0]["content"], row["chosen"][0]["content"]) == ("q", "good")


GOOD = '{"prompt": "q", "chosen": "a", "rejected": "b"}\n'
BAD: dict[str, tuple[str, str]] = {
    "malformed": ("{oops\n", ":2:2: not JSON"),
    "duplicate_key": ('{"prompt": "q", "prompt": "r"}\n', ":2: the key 'prompt' appears twice"),
    "row_type": ("[1]\n", ":2: this row is a list"),
    "unknown_format": ('{"a": 1}\n', ":2: no known format"),
    "wrong_kind": ('{"prompt": "q", "completion": "a"}\n', ":2: sft among rows written as 'pairs'"),
    "role": ('{"messages": [{"role": "x", "content": "y"}]}\n', ":2: messages[0] has the role 'x'"),
}


@pytest.mark.parametrize("code", BAD)
def test_a_bad_row_ends_the_run_or_is_dropped_and_counted(tmp_path: Path, code: str) -> None:
    line, message = BAD[code]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(GOOD + line + GOOD)
    out.write_text("as it was")
    with pytest.raises(DataError) as caught:
        run([source], out)
    assert str(caught.value).startswith(f"{source}{message}")
    assert out.read_text() == "as it was"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    summary = run([source], out, drop=True)
    assert (summary.rows_in, summary.rows_out, summary.dropped) == (3, 2, {code: 1})
    assert rows_of(dropped_path(out))[0]["row"] == 2


ALPACA = {"instruction": "q", "input": "", "output": "a"}
LIKED = {"prompt": "q", "completion": "a", "label": True}
RANKED = {"prompt": "q", "responses": ["good", "bad"], "scores": [2, 1]}
PAIR = json.loads(GOOD)
MIXES = [
    (
        [ALPACA, PAIR],
        "preference among rows written as 'sft', which would lose a part of it",
        "sft",
    ),
    ([ALPACA, RANKED], "ranked among rows written as 'sft'", "sft"),
    ([PAIR, ALPACA], "sft among rows written as 'pairs'", "preference"),
    ([PAIR, LIKED], "unpaired among rows written as 'pairs'", "preference"),
    ([LIKED, PAIR], "preference among rows written as 'kto'", "unpaired"),
    ([{"prompt": "q"}, ALPACA], "sft among rows written as 'prompts', which would lose", "prompt"),
]


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize(("rows", "reason", "first"), MIXES)
def test_sources_of_two_kinds_are_refused_unless_a_shape_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], reason: str, first: str, num_proc: int
) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    for path, row in zip((one, other), rows, strict=True):
        path.write_text(json.dumps(row) + "\n")
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError) as caught:
        run([one, other], out, num_proc=num_proc)
    assert str(caught.value).startswith(f"{other}:1: {reason}")
    assert f"rows before were {first} (one.jsonl): convert the two separately" in str(caught.value)
    assert not out.exists()
    summary = run([one, other], out, num_proc=num_proc, drop=True)
    assert (summary.rows_in, summary.rows_out) == (2, 1)
    assert summary.dropped == {"wrong_kind": 1}
    (lost,) = rows_of(dropped_path(out))
    assert (lost["source"], lost["row"]) == (str(other), 1)
    assert lost["reason"].startswith(reason)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_chosen_sides_alone_are_written_where_asked_for_and_counted(
    tmp_path: Path, num_proc: int
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in (ALPACA, PAIR, RANKED)))
    summary = run([source], tmp_path / "out.jsonl", to="sft", num_proc=num_proc)
    assert [row["completion"] for row in rows_of(summary.output)] == ["a", "a", "good"]
    assert "  2 pairs written without their rejected side, as SFT rows" in str(summary)
    whole = run([source], tmp_path / "pairs.jsonl", to="pairs", drop=True)
    assert whole.halved == 0


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "null", "'chosen' is null, 'rejected'"),
        ({"instruction": "q", "output": None}, "null", "'output' is null"),
        ({"prompt": "q", "rejected": "b"}, "missing", "'rejected' is the string 'b'"),
        ({"question": "q", "answer": 4}, "missing", "'answer' is the number 4"),
    ],
)
def test_a_row_whose_answer_cannot_be_read_is_no_prompt_unless_asked_for(
    tmp_path: Path, row: Row, code: str, reason: str
) -> None:
    source, out = write_jsonl(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl"
    with pytest.raises(DataError) as caught:
        run([source], out)
    said = f"{source}:1: of this row only the prompt can be read: {reason}"
    assert str(caught.value).startswith(said)
    assert run([source], out, drop=True).dropped == {code: 1}
    for asked in ({"to": "prompts"}, {"format": "prompt"}):
        assert run([source], out, **asked).rows_out == 1
        assert [row["prompt"] for row in rows_of(out)] == ["q"]
    report = validate([source])
    assert report.totals == {"schema": 1}
    assert report.examples["schema"][0].finding.found.startswith("of this row only the prompt")


def test_prompts_with_other_columns_are_prompts(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "q", "id": 3, "level": None}])
    assert run([source], tmp_path / "out.jsonl").rows_out == 1
    assert not validate([source]).totals


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        (["3", "7.5"], "b"),  # numbers as text still count: the order of the list does not
        ([3, "7.5"], "b"),
        (["nan", "3"], "'scores' is the string 'nan', wanted a number"),
        ([None, 3], "'scores' is null, wanted a number"),
        (None, "'scores' is null, wanted a list"),
        ([], "2 responses and 0 scores"),
        ([True, False], "'scores' is the boolean true, wanted a number"),
    ],
)
def test_scores_that_are_no_numbers_never_give_way_to_the_order_of_the_list(
    tmp_path: Path, scores: Any, chosen: str
) -> None:
    row = {"prompt": "q", "responses": ["a", "b"], "scores": scores}
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    if len(chosen) == 1:
        summary = run([source], tmp_path / "out.jsonl")
        (made,) = rows_of(summary.output)
        assert (made["chosen"], made["margin"]) == (chosen, 4.5)
    else:
        with pytest.raises(DataError, match=re.escape(f"{source}:1: {chosen}")):
            run([source], tmp_path / "out.jsonl")


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize(
    ("name", "text"), [("in.json", "[]"), ("in.json", " [ \n ] "), ("in.csv", "prompt,chosen\n")]
)
def test_a_file_without_rows_is_no_data(
    tmp_path: Path, name: str, text: str, num_proc: int
) -> None:
    source = tmp_path / name
    source.write_text(text)
    with pytest.raises(DataError, match=f"{name}:1: no rows in this file"):
        run([source], tmp_path / "out.jsonl", num_proc=num_proc)
    assert not (tmp_path / "out.jsonl").exists()


def test_processes_begin_where_the_first_record_is(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", [{"a": 1}])
    other = write_jsonl(tmp_path / "other.jsonl", [PAIR])
    summary = run([one, other], tmp_path / "out.jsonl", num_proc=2, drop=True)
    assert (summary.rows_in, summary.rows_out, summary.shape) == (2, 1, "pairs")


def test_a_wrong_format_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(GOOD)
    with pytest.raises(DataError, match=r"in.jsonl:1: no 'conversations': the row has"):
        run([source], tmp_path / "out.jsonl", format="sharegpt")
    with pytest.raises(ConfigError, match="no such format"):
        run([source], tmp_path / "out.jsonl", format="sharegtp")


def test_the_output_may_not_be_a_source(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(GOOD)
    with pytest.raises(ConfigError, match="one of the sources"):
        run([source], source)


def test_repairs_happen_only_on_request_and_are_counted(tmp_path: Path) -> None:
    rows = [
        {"instruction": "q", "input": "无输入", "output": "Ã©tÃ©，好"},
        {"instruction": "q", "input": "No input.", "output": "fine"},
        {"instruction": "q", "input": "real", "output": "a\\nb"},
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    untouched = rows_of(run([source], tmp_path / "a.jsonl").output)
    assert [r["prompt"] for r in untouched] == ["q\n无输入", "q\nNo input.", "q\nreal"]
    repairs = Repairs(strip_sentinels=True, fix_mojibake=True, decode_backslash_n=True)
    summary = run([source], tmp_path / "b.jsonl", repairs=repairs)
    mended = rows_of(summary.output)
    assert summary.repaired == {"strip_sentinels": 2, "fix_mojibake": 1}
    assert [r["prompt"] for r in mended] == ["q", "q", "q\nreal"]
    assert [r["completion"] for r in mended] == ["été，好", "fine", "a\\nb"]


def test_backslash_n_is_decoded_in_huozi_rows_outside_code(tmp_path: Path) -> None:
    kept = ["real\nnewline \\n", "```\\n```", "$\\nabla$", "\\neq"]
    rows = [{"prompt": "一\\n二", "chosen": text, "reject": "b"} for text in kept]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    summary = run([source], tmp_path / "out.jsonl", repairs=Repairs(decode_backslash_n=True))
    assert [r["chosen"] for r in rows_of(summary.output)] == kept
    assert {r["prompt"] for r in rows_of(summary.output)} == {"一\n二"}
    assert summary.repaired == {"decode_backslash_n": 4}
    assert decoded("一\\n二") == "一\n二"


def test_mojibake_repair_leaves_real_chinese_alone(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "permissive/alpaca_zh_extra.json"
    plain = run([source], tmp_path / "a.jsonl").output
    mended = run([source], tmp_path / "b.jsonl", repairs=Repairs(fix_mojibake=True))
    assert plain.read_bytes() == mended.output.read_bytes()
    assert not mended.repaired


@pytest.mark.parametrize("text", ["无输入", "没有输入。", "No input", "<noinput>", " NO INPUT. "])
def test_sentinels(text: str) -> None:
    assert is_sentinel(text)
    assert not is_sentinel(text + "了吗？")


def test_the_command_prints_its_account_and_exits_with_2_on_bad_data(tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl",
        [{"instruction": "q", "output": ["a", "b"]}, {"instruction": "q", "output": ["a", "a"]}],
    )
    command = ["convert", str(source), "-o", str(tmp_path / "out.jsonl")]
    done = CliRunner().invoke(data, [*command, "--format", "alpaca-ranked"])
    assert done.exit_code == 0
    assert "alpaca-ranked" in done.output
    assert "2 rows in, 1 out" in done.output
    assert "chosen_eq_rejected" in done.output
    source.write_text("oops")
    failed = CliRunner().invoke(data, ["convert", str(source), "-o", str(tmp_path / "x.jsonl")])
    assert failed.exit_code == 2
    assert f"error: {source}" in failed.output
    assert "Traceback" not in failed.output


def test_a_hub_name_is_read_split_by_split(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_tools.reading import hub

    folder = tmp_path / "owner" / "name" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = (shared_data / f"derived/rlhf_single_round_zh.{split}.parquet").read_bytes()
        (folder / f"{split}-0.parquet").write_bytes(rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # a folder of this name stands in for the hub: datasets reads both by the same call
    assert hub.hub_splits("owner/name") == ["owner/name:train", "owner/name:test"]
    assert sum(1 for _ in hub.hub_rows("owner/name:test")) == 77
    assert hub.is_hub_name("owner/other")
    assert not hub.is_hub_name("owner/other.jsonl")
    with pytest.raises(DataError, match="no such file, and no data set"):
        hub.hub_splits("nobody/nothing-at-all")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("derived/huozi_shape.json", {}),
        ("permissive/oaast_rm_zh.json", {"pairing": Pairing("all-pairs")}),
        ("permissive/hh_harmless_test.jsonl.gz", {}),
        ("permissive/kto_en_demo.json", {"to": "pairs"}),
        ("derived/huozi_shape.csv", {}),
    ],
)
def test_two_processes_write_the_same_bytes(
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(json_rows, "PIECE", 1 << 15)
    one = run([shared_data / name], tmp_path / "one.jsonl", **options)
    two = run([shared_data / name], tmp_path / "two.jsonl", num_proc=2, **options)
    assert one.output.read_bytes() == two.output.read_bytes()
    assert (one.rows_in, one.rows_out, one.dropped) == (two.rows_in, two.rows_out, two.dropped)
    assert one.formats == two.formats
    if one.dropped:
        assert dropped_path(one.output).read_bytes() == dropped_path(two.output).read_bytes()


def test_two_processes_tell_of_a_bad_row_as_one_does(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(GOOD * 50 + "{oops\n" + GOOD)
    with pytest.raises(DataError, match=r"in.jsonl:51:2: not JSON"):
        run([source], tmp_path / "out.jsonl", num_proc=2)
    summary = run([source], tmp_path / "out.jsonl", num_proc=2, drop=True)
    assert (summary.rows_in, summary.rows_out, summary.dropped) == (52, 51, {"malformed": 1})


def test_a_file_written_behind_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "BEHIND", 1 << 20)
    source = tmp_path / "in.jsonl"
    with source.open("w") as out:
        out.writelines(GOOD.replace("q", f"q{i} " + "x" * 1000, 1) for i in range(4000))
    summary = run([source], tmp_path / "out.jsonl")
    assert summary.rows_out == 4000
    assert [row["source_row"] for row in rows_of(summary.output)] == list(range(1, 4001))


def test_a_conversion_that_leaves_no_row_has_failed(tmp_path: Path) -> None:
    source, out = tmp_path / "odd.json", tmp_path / "out.jsonl"
    source.write_text('[{"instruction": 1, "output": "b"}]', "utf-8")
    words = ["convert", str(source), "-o", str(out), "--on-error", "drop"]
    done = CliRunner().invoke(data, words)
    assert done.exit_code == 2
    assert f"{out}: none of 1 rows was written" in done.output
    assert "1  unknown_format" in done.output
    assert len(rows_of(dropped_path(out))) == 1
