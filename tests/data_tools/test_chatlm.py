"""ChatLM's merge: every rule on rows made by hand, and the fixtures counted apart."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import REPOSITORY, write_jsonl

from alignment.errors import ConfigError, DataError
from data_tools.convert.chatlm import DEFECTS, merge
from data_tools.convert.output import dropped_path
from data_tools.formats import Record, group_id

ALL = frozenset(DEFECTS)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_rules_by_hand(tmp_path: Path) -> None:
    long = "长" * 520
    rows = [
        {"prompt": "q", "chosen": long, "reject": "b"},
        {"prompt": "q", "chosen": long + "长", "reject": "b"},
        {"prompt": "q", "chosen": "a", "reject": ""},
        {"prompt": "q", "chosen": "a", "reject": " a\n"},
        {"prompt": "q", "chosen": " ", "reject": "b"},
        {"prompt": "q", "chosen": "a\\nb", "reject": "$\\nabla$"},
    ]
    source = write_jsonl(tmp_path / "huozi.jsonl", rows)
    (clean,) = merge([source], tmp_path / "a.jsonl")
    assert clean.dropped == {
        "chosen_over_520": 1,
        "empty_rejected": 1,
        "chosen_eq_rejected": 1,
        "empty_chosen": 1,
    }
    assert [r["chosen"] for r in rows_of(clean.output)] == [long, "a\\nb"]
    (exact,) = merge([source], tmp_path / "b.jsonl", defects=ALL)
    assert exact.dropped == {"chosen_over_520": 1, "empty_rejected": 1, "chosen_eq_rejected": 1}
    assert [r["chosen"] for r in rows_of(exact.output)] == [long, " ", "a\nb"]
    assert rows_of(exact.output)[2]["rejected"] == "$\nabla$"
    assert exact.repaired == {"backslash-n": 1}


@pytest.mark.parametrize(
    ("defects", "prompts"),
    [
        (frozenset(), ["说。\n一", "说。", "说。"]),
        (frozenset({"comma-join"}), ["说。，一", "说。", "说。"]),
        (ALL, ["说。，一", "说。", "说。，无输入"]),
    ],
)
def test_alpaca_prompts_and_their_generated_answers(
    tmp_path: Path, defects: frozenset[str], prompts: list[str]
) -> None:
    alpaca = [
        {"instruction": "说。", "input": given, "output": "好"} for given in ("一", " ", "无输入")
    ]
    alpaca.append({"instruction": "没有", "input": "", "output": "好"})
    answers = [{"prompt": prompt, "rejected": f"坏{i}"} for i, prompt in enumerate(prompts)]
    sources = [
        write_jsonl(tmp_path / "alpaca.jsonl", alpaca),
        write_jsonl(tmp_path / "rejected.jsonl", answers),
    ]
    (summary,) = merge(sources, tmp_path / "out.jsonl", defects=defects)
    found = [(row["prompt"], row["rejected"]) for row in rows_of(summary.output)]
    assert found == [(prompt, f"坏{i}") for i, prompt in enumerate(prompts)]
    assert summary.dropped == {"no_rejected": 1}


def test_generated_answers_that_no_row_takes_are_reported(tmp_path: Path) -> None:
    answers = [("说。", "坏"), ("说。", "更坏"), ("别的", "x")]
    sources = [
        write_jsonl(
            tmp_path / "rejected.jsonl", [{"prompt": p, "rejected": r} for p, r in answers]
        ),
        write_jsonl(tmp_path / "alpaca.jsonl", [{"instruction": "说。", "output": "好"}]),
        write_jsonl(tmp_path / "huozi.test.jsonl", [{"prompt": "q", "chosen": "a", "reject": "b"}]),
    ]
    main, test = merge(sources, tmp_path / "out.jsonl")
    assert (main.rows_in, main.rows_out, main.dropped) == (3, 1, {"answer_to_no_row": 2})
    assert (test.rows_in, test.rows_out, test.dropped) == (1, 1, {})
    assert "         3  rejected.jsonl: generated answers\n" in str(main)
    assert [(row["source"], row["row"]) for row in rows_of(dropped_path(main.output))] == [
        (str(sources[0]), 2),
        (str(sources[0]), 3),
    ]
    with pytest.raises(ConfigError, match="all sources hold generated answers"):
        merge(sources[:1], tmp_path / "none.jsonl")


def expected(shared_data: Path, *, test: bool) -> int:
    """The rows left, counted from the rules with nothing of ours."""
    derived = shared_data / "derived"
    triples = [
        (r["prompt"], r["chosen"], r["reject"])
        for r in json.loads((derived / "huozi_shape.json").read_text("utf-8"))
    ]
    alpaca = json.loads((derived / "alpaca_zh.json").read_text("utf-8"))
    answers = rows_of(derived / "alpaca_zh.rejected.jsonl")
    triples += [
        (a["instruction"], a["output"], r["rejected"]) for a, r in zip(alpaca, answers, strict=True)
    ]
    for split in ["train", "test"] if test else ["train"]:
        table = pq.read_table(derived / f"rlhf_single_round_zh.{split}.parquet")
        triples += [(r["prompt"], r["chosen"], r["rejected"]) for r in table.to_pylist()]
    return sum(
        all(0 < len(part) <= 520 for part in triple) and triple[1].strip() != triple[2].strip()
        for triple in triples
    )


def test_the_fixtures_give_the_rows_that_the_rules_leave(shared_data: Path, tmp_path: Path) -> None:
    derived = shared_data / "derived"
    names = ("huozi_shape.json", "alpaca_zh.json", "alpaca_zh.rejected.jsonl")
    sources = [derived / name for name in names] + sorted(derived.glob("*.parquet"))
    train, test = merge(sources, tmp_path / "out.jsonl")
    assert (train.rows_in, train.rows_out) == (1072, 822)
    assert train.rows_out == expected(shared_data, test=False)
    assert train.dropped == {
        "chosen_eq_rejected": 3,
        "chosen_over_520": 184,
        "prompt_over_520": 8,
        "rejected_over_520": 55,
    }
    assert (test.output.name, test.rows_in, test.rows_out) == ("out.test.jsonl", 77, 60)
    (whole,) = merge(sources, tmp_path / "all.jsonl", defects=ALL)
    assert (whole.rows_in, whole.rows_out) == (1149, 882)
    assert whole.rows_out == expected(shared_data, test=True)


def test_the_readme_lists_every_defect() -> None:
    readme = (REPOSITORY / "data_tools/README.md").read_text("utf-8").splitlines()
    assert all(f"| `{name}` | {meaning} |" in readme for name, meaning in DEFECTS.items())


def test_an_unknown_defect(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such defect"):
        merge([], tmp_path / "out.jsonl", defects=frozenset({"typo"}))


def test_rows_and_counts_of_a_merge_are_exact(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q\\n1", "chosen": "a\\n", "reject": "b"},
        {"prompt": "q2", "chosen": "a", "reject": "b\\n"},
        {"prompt": "q2", "chosen": "", "reject": "b"},
        {"prompt": "q3", "chosen": "", "reject": "b"},
    ]
    pairs = [{"prompt": "q2", "chosen": "x", "rejected": "y"}]
    sources = [
        write_jsonl(tmp_path / "huozi.jsonl", rows),
        write_jsonl(tmp_path / "p.jsonl", pairs),
    ]
    (summary,) = merge(sources, tmp_path / "out.jsonl", defects=frozenset({"backslash-n"}))
    found = rows_of(summary.output)
    groups = [row.pop("group_id") for row in found]
    assert groups == [group_id(Record("prompt", text)) for text in ("q\n1", "q2", "q2")]
    assert found == [
        {"prompt": "q\n1", "chosen": "a\n", "rejected": "b", "source": "huozi.jsonl",
         "source_row": 1},
        {"prompt": "q2", "chosen": "a", "rejected": "b\n", "source": "huozi.jsonl",
         "source_row": 2},
        {"prompt": "q2", "chosen": "x", "rejected": "y", "source": "p.jsonl", "source_row": 1},
    ]  # fmt: skip
    assert (summary.rows_in, summary.rows_out) == (5, 3)
    assert summary.formats == {("huozi.jsonl", "huozi"): 4, ("p.jsonl", "pair"): 1}
    assert (summary.dropped, summary.repaired) == ({"empty_chosen": 2}, {"backslash-n": 2})
    assert "pairs, by the rules of ChatLM-mini-Chinese" in str(summary)
    lost = rows_of(dropped_path(summary.output))
    assert [(row["row"], row["code"], row["reason"]) for row in lost] == [
        (3, "empty_chosen", "empty_chosen"),
        (4, "empty_chosen", "empty_chosen"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}],
         "neither an alpaca row nor a pair of texts"),
        ([{"prompt": "q", "completion": "a"}], "neither an alpaca row nor a pair of texts"),
        ([{"prompt": "q", "rejected": "a"}, {"prompt": "q", "chosen": "b"}],
         "no 'rejected', as the rows before have"),
    ],
)  # fmt: skip
def test_rows_of_other_kinds_are_named(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with pytest.raises(DataError) as caught:
        merge([source], tmp_path / "out.jsonl")
    assert message in str(caught.value)
    assert f"in.jsonl:{len(rows)}" in str(caught.value)


def test_text_in_the_encoding_that_is_named(tmp_path: Path) -> None:
    text = json.dumps({"prompt": "问题", "chosen": "好", "reject": "坏"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(text.encode("gb18030"))
    answer = json.dumps({"prompt": "问", "rejected": "差"}, ensure_ascii=False)
    (tmp_path / "r.jsonl").write_bytes(answer.encode("gb18030"))
    alpaca = json.dumps({"instruction": "问", "output": "答"}, ensure_ascii=False)
    (tmp_path / "b.jsonl").write_bytes(alpaca.encode("gb18030"))
    sources = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "r.jsonl")]
    (summary,) = merge(sources, tmp_path / "out.jsonl", encoding="gb18030")
    found = [(row["prompt"], row["chosen"], row["rejected"]) for row in rows_of(summary.output)]
    assert found == [("问题", "好", "坏"), ("问", "答", "差")]
