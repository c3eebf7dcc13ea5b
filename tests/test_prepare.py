"""Prepared rows are written once, whole or not at all, and found again by what they hold."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hub import SHA, serve_hub
from support import PATIENCE, REPOSITORY, prepare_rows, write_jsonl

from alignment.data import arrow, cache
from alignment.data.load import load_datasets
from alignment.data.prepare import Prepared, described_drops
from alignment.data.sources import digest_source, lasting, state_of
from alignment.errors import ConfigError, DataError

ROWS = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(8)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    place = tmp_path / "cache"
    monkeypatch.setenv(cache.FOLDER, str(place))
    return place


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", ROWS)


def prepared(model: Path, data: Path, *flags: str, stage: str = "sft") -> Prepared:
    rows, _ = prepare_rows(stage, model, [data], *flags)
    return rows.by_role["train"]


def ids_of(one: Prepared) -> list[list[int]]:
    with pa.memory_map(str(one.entry.rows)) as source:
        ids: list[list[int]] = pa.ipc.open_stream(source).read_all()["input_ids"].to_pylist()
        return ids


def start(action: str, model: Path, data: str, **more: str) -> subprocess.Popen[str]:
    words = ["--model_name_or_path", str(model), "--train_data", data, "--use_cpu"]
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/prepare_and_watch.py"), action, "sft", *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **more},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_second_start_reads_no_data(folder: Path, data: Path, tiny_dir: Path) -> None:
    assert finish(start("twice", tiny_dir, str(data)))["opened"] == []
    assert len(list(cache.entries())) == 1


def test_two_writers_make_one_entry(folder: Path, data: Path, tiny_dir: Path) -> None:
    processes = [start("once", tiny_dir, str(data)) for _ in range(2)]
    one, other = map(finish, processes)
    assert (one["inode"], one["time"]) == (other["inode"], other["time"])
    # who waits for the other reads nothing
    assert sorted([one["opened"], other["opened"]]) == [[], [str(data)]]
    assert len(list(cache.entries())) == 1


def test_a_killed_writer_leaves_no_entry_and_no_lock(
    folder: Path, data: Path, tiny_dir: Path
) -> None:
    process = start("killed", tiny_dir, str(data))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert list(cache.entries()) == []
    assert len(list(folder.glob(".*.tmp"))) == 1
    assert prepared(tiny_dir, data).entry.about["rows"] == len(ROWS)
    assert list(folder.glob(".*.tmp")) == []
    assert len(list(cache.entries())) == 1


def test_a_file_that_changes_while_it_is_read_is_refused(
    folder: Path, data: Path, tiny_dir: Path
) -> None:
    process = start("touched", tiny_dir, str(data))
    _, error = process.communicate(timeout=PATIENCE)
    assert f"DataError: {data}: changed while it was read" in error
    assert list(cache.entries()) == []
    assert list(folder.glob(".*.tmp")) == []


def test_a_changed_file_is_prepared_again(folder: Path, data: Path, tiny_dir: Path) -> None:
    before = prepared(tiny_dir, data)
    write_jsonl(data, [{**row, "completion": row["completion"].upper()} for row in ROWS])
    after = prepared(tiny_dir, data)
    assert after.entry.folder != before.entry.folder
    assert after.sources[0].sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    assert before.sources[0].sha256 != after.sources[0].sha256


def test_a_file_that_changes_and_keeps_its_size_and_time_is_prepared_again(
    folder: Path, data: Path, tiny_dir: Path
) -> None:
    """As of archives whose files all have one time, or of `cp -p`."""
    os.utime(data, (1, 1))
    before = prepared(tiny_dir, data)
    state = data.stat()
    with data.open("r+") as file:
        file.write(data.read_text().replace("Say 0", "Say 9"))
    os.utime(data, (1, 1))
    now = data.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (
        state.st_size,
        state.st_mtime_ns,
        state.st_ino,
    )
    after = prepared(tiny_dir, data)
    assert before.sources[0].sha256 != after.sources[0].sha256
    assert after.sources[0].sha256 == hashlib.sha256(data.read_bytes()).hexdigest()


def test_a_state_within_a_tick_of_its_last_change_proves_nothing(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(str(data))
    changed = data.stat().st_ctime_ns
    for late, kept in ((0, None), (49_000_000, None), (51_000_000, state)):
        monkeypatch.setattr(time, "time_ns", lambda late=late: changed + late)
        assert lasting(state) == kept
    monkeypatch.setattr(time, "time_ns", lambda: changed)
    digest_source(str(data))
    assert cache.known_digest(state) is None
    monkeypatch.undo()
    assert lasting(["hub:owner/set@main"]) == ["hub:owner/set@main"]


def test_rows_in_several_blocks_keep_their_order(
    folder: Path, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(1000)]
    data = write_jsonl(tmp_path / "many.jsonl", rows)
    found = []
    for size, blocks in ((arrow._BLOCK, 1), (1, 4)):
        monkeypatch.setattr(arrow, "_BLOCK", size)
        one = prepared(tiny_dir, data)
        with pa.memory_map(str(one.entry.rows)) as source:
            table = pa.ipc.open_stream(source).read_all()
            assert table["line"].num_chunks == blocks
            found.append(table.to_pylist())
        cache.clear()
    assert found[0] == found[1]
    assert [row["line"] for row in found[0]] == list(range(1, 1001))


def test_a_copy_of_a_file_is_found_by_its_content(
    folder: Path, data: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    before = prepared(tiny_dir, data)
    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(data.read_bytes())
    after = prepared(tiny_dir, copy)
    assert after.entry.folder == before.entry.folder
    assert [source.path for source in after.sources] == [str(copy)]
    assert len(list(cache.entries())) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_length", "16"],
        ["--loss_on", "all"],
        ["--as_chat", "false"],
        ["--chat_template", "alpaca"],
        ["--on_bad_row", "drop"],
        ["--data_format", "prompt-completion"],
        ["--data_encoding", "gb18030"],
    ],
    ids=lambda flags: flags[0],
)
def test_settings_that_change_rows_make_another_entry(
    flags: list[str], folder: Path, data: Path, tiny_dir: Path
) -> None:
    one, other = prepared(tiny_dir, data), prepared(tiny_dir, data, *flags)
    assert one.entry.folder != other.entry.folder


def test_rows_of_another_encoding_are_the_same_and_it_is_reported(
    folder: Path, data: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    texts = ["解释光合作用", "植物把阳光、水和二氧化碳变成养分", "为什么天空是蓝色的？"]
    rows = [{"prompt": one, "completion": other} for one in texts for other in texts]
    write_jsonl(data, rows)
    recoded = tmp_path / "gbk.jsonl"
    recoded.write_bytes(data.read_bytes().decode().encode("gbk"))
    one, other = prepared(tiny_dir, data), prepared(tiny_dir, recoded)
    assert ids_of(one) == ids_of(other)
    assert list(described_drops(other)) == [f"encoding: gb18030 (detected) of {recoded}"]
    assert not list(described_drops(one))
    named = prepared(tiny_dir, recoded, "--data_encoding", "gbk")
    assert list(described_drops(named)) == [f"encoding: gbk (as asked) of {recoded}"]


def test_rows_keep_their_place_also_if_the_file_is_found_by_its_content(
    folder: Path, data: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    data.write_text('[\n{"text": "a"},\n\n{"text": 1},\n{"text": "b"}\n]')
    flags = ("--on_bad_row", "drop")
    before = prepared(tiny_dir, data, *flags, stage="pt")
    assert [before.place(row) for row in range(2)] == [f"{data}:2", f"{data}:5"]
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(data.read_bytes())
    after = prepared(tiny_dir, copy, *flags, stage="pt")
    assert after.entry.folder == before.entry.folder
    assert after.place(1) == f"{copy}:5"
    assert next(iter(described_drops(after))).startswith(f"dropped: {copy}:4: ")


def test_a_folder_of_several_splits_is_not_trained_on(tiny_dir: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"has the splits test, train\n.*/train\.jsonl"):
        prepared(tiny_dir, tmp_path, stage="pt")


def test_settings_that_do_not_change_rows_find_the_entry(
    folder: Path, data: Path, tiny_dir: Path
) -> None:
    one = prepared(tiny_dir, data)
    flags = ["--learning_rate", "0.1", "--eval_fraction", "0.5", "--max_rows", "3", "--seed", "9"]
    assert prepared(tiny_dir, data, *flags).entry.folder == one.entry.folder


def test_the_least_recently_used_entry_is_deleted_beyond_the_bound(
    folder: Path, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        write_jsonl(tmp_path / f"{i}.jsonl", [{**row, "prompt": f"{i}"} for row in ROWS])
        for i in range(3)
    ]
    made = [prepared(tiny_dir, file).entry for file in files[:2]]
    for age, entry in ((200, made[0]), (100, made[1])):
        os.utime(entry.folder / cache.ABOUT, (age, age))
    prepared(tiny_dir, files[0])  # used now
    monkeypatch.setenv(cache.LIMIT, str(2.5 * made[0].size / 1e9))
    last = prepared(tiny_dir, files[2]).entry
    assert {entry.folder for entry in cache.entries()} == {made[0].folder, last.folder}


def test_one_entry_beyond_the_bound_is_kept_for_the_run_that_needs_it(
    folder: Path, data: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT, "0")
    train, _ = load_datasets(*prepare_rows("sft", tiny_dir, [data]))
    assert len(train) == len(ROWS)


def test_entries_are_listed_and_cleared(folder: Path, data: Path, tiny_dir: Path) -> None:
    size = prepared(tiny_dir, data).entry.size
    first, last = cache.describe_entries()
    assert f"{len(ROWS)} rows  {data}" in first
    assert last.startswith(f"1 prepared data set in {folder}: ")
    assert cache.clear() == (1, size)
    assert list(cache.entries()) == []
    assert next(cache.describe_entries()).startswith("0 prepared data sets in ")


def test_a_folder_that_cannot_be_written_is_one_message(
    data: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.FOLDER, str(data))
    with pytest.raises(
        ConfigError, match=f"{data}: prepared rows cannot be kept and locked there: "
    ):
        prepared(tiny_dir, data)


def test_a_bound_that_is_no_number_is_one_message(
    folder: Path, data: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT, "many")
    with pytest.raises(ConfigError, match="ALIGN_CACHE_GB: 'many' is no number"):
        prepared(tiny_dir, data)


def test_a_hub_data_set_is_found_by_its_commit(
    folder: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    place = tmp_path / "hub" / "datasets" / "owner" / "set"
    place.mkdir(parents=True)
    write_jsonl(place / "train.jsonl", ROWS)
    home = {"HF_HOME": str(tmp_path / "home")}
    with serve_hub(tmp_path / "hub") as endpoint:
        online = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        one = finish(start("once", tiny_dir, "owner/set", **home, **online))
    other = finish(start("once", tiny_dir, "owner/set", **home))
    assert one == other
    (entry,) = cache.entries()
    assert entry.about["sources"][0]["digest"] == f"hub:owner/set@{SHA}"


def test_a_failed_pass_leaves_nothing(folder: Path, tiny_dir: Path, tmp_path: Path) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", [*ROWS, {"prompt": "q", "completion": 3}])
    with pytest.raises(DataError, match=f"{bad}:9: "):
        prepared(tiny_dir, bad)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_bad_rows_are_counted_and_named_on_every_start(
    folder: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", [*ROWS, *[{"prompt": "q", "completion": 3}] * 7])
    for _ in range(2):
        found = prepared(tiny_dir, bad, "--on_bad_row", "drop")
        assert (found.sources[0].rows, found.sources[0].dropped) == (len(ROWS), 7)
        assert [message.partition(": ")[0] for message in found.dropped] == [
            f"{bad}:{row}" for row in range(9, 14)
        ]


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")


def write_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


def lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: write_jsonl(path, ROWS),
    "no end of line.jsonl": lambda path: path.write_bytes(lines().rstrip()),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + lines()),
    "rows.json": write_json,
    "rows.csv": write_csv,
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines())),
    "rows.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(lines())),
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_digest_made_while_reading_is_that_of_the_file(
    name: str, folder: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    found = prepared(tiny_dir, path)
    assert found.sources[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.entry.about["rows"] == len(ROWS)


def test_the_digest_of_a_folder_is_made_of_its_files(
    folder: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    place = tmp_path / "set"
    (place / "deep").mkdir(parents=True)
    write_jsonl(place / "b.jsonl", ROWS[:3])
    write_jsonl(place / "deep" / "a.jsonl", ROWS[3:])
    found = prepared(tiny_dir, place)
    assert found.entry.about["rows"] == len(ROWS)
    cache.clear()  # digests that are known too
    assert digest_source(str(place)) == found.sources[0].sha256
    (place / "b.jsonl").rename(place / "c.jsonl")
    assert digest_source(str(place)) != found.sources[0].sha256


def test_a_pass_that_stops_early_still_has_the_digest_of_all(
    folder: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    """A json array may be followed by white space that no row needs."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS) + "\n" * 70_000, encoding="utf-8")
    found = prepared(tiny_dir, path)
    assert found.sources[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_column_that_is_nested_too_deep_ends_in_a_line(
    folder: Path, data: Path, tiny_dir: Path
) -> None:
    data.write_text('{"prompt": "a", "x": ' + "[" * 1010 + "]" * 1010 + "}\n")
    reward = ("--reward_model", "test_prepare:length")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: a column is nested too deep"):
        prepared(tiny_dir, data, *reward, stage="ppo")
