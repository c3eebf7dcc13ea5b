"""Sources in shares of their weights: which rows are drawn, and what is recorded and printed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import prepare_rows, write_jsonl

from alignment.data.rows import check_rows, select_rows
from alignment.data.sources import describe_mix, drawn, mixed
from alignment.errors import ConfigError
from alignment.runs import Source
from alignment.runs.record import fingerprint

SOURCES = [Source("a.jsonl", "1", 100, weight=0.75), Source("b.jsonl", "2", 50, weight=0.25)]


def test_a_mix_takes_no_row_twice_and_uses_one_source_whole() -> None:
    rows = mixed(SOURCES, 0)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows[:100].tolist() == [*range(100)]
    assert len(rows) == 133
    assert list(describe_mix(SOURCES, rows)) == [
        "mix: 100 of 100 rows of a.jsonl (75.2%)",
        "mix: 33 of 50 rows of b.jsonl (24.8%)",
    ]
    assert mixed(SOURCES, 0).tolist() == rows.tolist() != mixed(SOURCES, 1).tolist()


def test_without_weights_all_rows_are_used() -> None:
    sources = [Source("a.jsonl", "1", 3), Source("b.jsonl", "2", 2)]
    assert mixed(sources, 0).tolist() == [0, 1, 2, 3, 4]
    assert list(describe_mix(sources, mixed(sources, 0))) == []


@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 9)), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_shares_are_those_of_the_weights(sizes: list[tuple[int, float]], seed: int) -> None:
    sources = [Source(str(i), "", size, weight=w) for i, (size, w) in enumerate(sizes)]
    rows = mixed(sources, seed).tolist()
    assert len(set(rows)) == len(rows)
    start, most = 0, min(size / weight for size, weight in sizes)
    for size, weight in sizes:
        drawn = sum(start <= row < start + size for row in rows)
        assert abs(drawn - most * weight) <= 0.5
        start += size
    assert any(abs(size - most * weight) < 0.5 for size, weight in sizes)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    def rows(letter: str, count: int) -> list[dict[str, Any]]:
        return [{"prompt": f"{letter}{i}", "completion": "x"} for i in range(count)]

    return (
        write_jsonl(tmp_path / "a.jsonl", rows("a", 8)),
        write_jsonl(tmp_path / "b.jsonl", rows("b", 8)),
    )


def test_a_stage_draws_counts_and_records_a_mix(
    files: tuple[Path, Path], tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weighted = [Path(f"{files[0]}:3"), Path(f"{files[1]}:1")]
    rows, values = prepare_rows("sft", tiny_dir, weighted)
    counts = check_rows(rows, values)
    assert counts["train"].rows == len(select_rows(rows, values)["train"].kept) == 11
    printed = capsys.readouterr().out
    assert f"mix: 8 of 8 rows of {files[0]} (72.7%)\nmix: 3 of 8 rows of {files[1]}" in printed
    assert [(one.path, one.weight) for one in rows.inputs()["train"]] == [
        (str(files[0]), 3.0),
        (str(files[1]), 1.0),
    ]
    assert drawn({**values, "train_data": [f"{files[0]}:3", f"{files[1]}:1"]}, [8, 8]) == 11
    whole = prepare_rows("sft", tiny_dir, files)[0]
    marks = {
        fingerprint("sft", settings={}, inputs=one.inputs(), parents={}) for one in (rows, whole)
    }
    assert len(marks) == 2


@pytest.mark.parametrize(
    ("weights", "flags", "message"),
    [
        (("", ":1"), [], "a.jsonl: no weight in the mix"),
        ((":0", ":1"), [], "a.jsonl:0: no weight in the mix"),
        ((":1", ":1"), ["--eval_data", "A:0.5"], "eval_data: held-out data has no weights"),
    ],
)
def test_weights_that_mean_nothing_are_refused(
    weights: tuple[str, str],
    flags: list[str],
    message: str,
    files: tuple[Path, Path],
    tiny_dir: Path,
) -> None:
    given = [Path(f"{file}{weight}") for file, weight in zip(files, weights, strict=True)]
    flags = [flag.replace("A", str(files[0])) for flag in flags]
    with pytest.raises(ConfigError) as caught:
        prepare_rows("sft", tiny_dir, given, *flags)
    assert message in str(caught.value)


def test_named_columns_decide_what_rows_become(tmp_path: Path, tiny_dir: Path) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", [{"ask": "q", "good": "a", "bad": "b", "note": "n"}])
    named = ["--columns", "prompt=ask,chosen=good,rejected=bad"]
    rows, _ = prepare_rows("rm", tiny_dir, [file], *named)
    assert rows.by_role["train"].entry.about["rows"] == 1
    assert rows.by_role["train"].sources[0].unused == {"note": 1}
    swapped = ["--columns", "prompt=ask,chosen=bad,rejected=good"]
    other, _ = prepare_rows("rm", tiny_dir, [file], *swapped)
    assert other.request.key != rows.request.key


def test_a_change_of_a_list_prepares_its_rows_again(tmp_path: Path, tiny_dir: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"q": "q", "a": "a", "b": "b"}])
    source = tmp_path / "dataset_info.json@mine"
    digests = set()
    for response in "ab":
        entry = {"file_name": "in.jsonl", "columns": {"prompt": "q", "response": response}}
        (tmp_path / "dataset_info.json").write_text(f'{{"mine": {entry}}}'.replace("'", '"'))
        rows, _ = prepare_rows("sft", tiny_dir, [source])
        (one,) = rows.inputs()["train"]
        assert rows.by_role["train"].sources[0].unused == {"b" if response == "a" else "a": 1}
        digests.add(one.sha256)
    assert len(digests) == 2
