"""Pieces of a file are converted as the whole file is; what a worker does, in one process."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import write_jsonl

from data_tools.convert.repairs import Repairs
from data_tools.convert.run import NotParallel, Piece, _done, _in_order, _Job, _located, _parsed
from data_tools.convert.run import convert as convert_whole
from data_tools.convert.writer import Conversion

ROWS: list[dict[str, Any]] = [
    {"prompt": "a?", "chosen": "b", "rejected": "c", "note": "x"},
    {"prompt": "d?", "chosen": "e", "rejected": ""},
    {"prompt": "f?", "chosen": "g", "rejected": "g"},
    {"prompt": "h\\ni?", "chosen": "j", "rejected": "k"},
]


def test_pieces_begin_on_the_lines_after_those_before() -> None:
    cut = [(b"a\nb\n", False), (b"c\n", False), (b"d", True)]
    assert list(_located(iter(cut))) == [
        Piece(b"a\nb\n", False, 1), Piece(b"c\n", False, 3), Piece(b"d", True, 4),
    ]  # fmt: skip


def test_pieces_give_what_the_whole_file_gives(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    options = Conversion(drop=True)
    repairs = Repairs(decode_backslash_n=True)
    (whole,) = convert_whole([str(source)], tmp_path / "out.jsonl", options, repairs=repairs)
    lines = source.read_bytes().splitlines(keepends=True)
    cut = [(b"".join(lines[:2]), False), (b"".join(lines[2:]), True)]
    job = _Job("lines", str(source), options, whole.shape, Repairs(decode_backslash_n=True))
    made, start = [], 0
    for piece in _located(iter(cut)):
        parsed = _parsed(piece, "lines")
        assert parsed is not None
        made.append(_done(parsed, start, job))
        start += sum(len(batch.values) for batch in parsed)
    done = [one for one in made if one is not None]
    assert len(done) == 2
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [json.loads(line) for one in done for line in one.out.splitlines()] == written
    lost = (tmp_path / "out.dropped.jsonl").read_bytes()
    assert b"".join(one.lost for one in done) == lost
    found = [one.summary for one in done]
    assert sum(one.rows_in for one in found) == whole.rows_in == 4
    assert sum(one.rows_out for one in found) == whole.rows_out == len(written)
    assert sum((one.dropped for one in found), Counter()) == whole.dropped
    assert sum((one.formats for one in found), Counter()) == whole.formats
    assert sum((one.unused for one in found), Counter()) == whole.unused
    assert sum((one.repairs.counts for one in done), Counter()) == repairs.counts


def test_a_piece_with_an_error_or_a_row_to_join_is_left_to_one_process(tmp_path: Path) -> None:
    def done_of(row: dict[str, Any], shape: str) -> object:
        piece = Piece(json.dumps(row).encode(), True, 1)
        parsed = _parsed(piece, "lines")
        assert parsed is not None
        return _done(parsed, 0, _Job("lines", "f", Conversion(), shape, Repairs()))

    assert done_of(ROWS[0], "pairs") is not None
    assert done_of({"prompt": "a", "rejected": 3, "chosen": "b"}, "pairs") is None
    tree = {"message_id": "m", "parent_id": None, "text": "q", "role": "prompter",
            "message_tree_id": "m"}  # fmt: skip
    assert done_of(tree, "pairs") is None
    assert _parsed(Piece(b'{"a": 1', True, 1), "array") is None


@pytest.mark.parametrize("answer", ["count", "piece"])
def test_a_worker_that_cannot_ends_the_pieces(answer: str) -> None:
    class Worker:
        answers = iter([None] if answer == "count" else [3, None])

        def send(self, _: Any) -> None:
            pass

        def recv(self) -> Any:
            return next(self.answers)

    pieces: Any = iter(["p"])
    workers: Any = [Worker()]
    with pytest.raises(NotParallel):
        list(_in_order(pieces, workers, 0))
