"""What a resumed run keeps of the files that grow, and records that are not what align writes."""

import json
from pathlib import Path

import pytest

from alignment.errors import ConfigError
from alignment.runs.record import load_run
from alignment.trackers.files import FileTracker

ODD = "one\u2028two\u2029three\x85four\x0bfive\x1csix"


def test_texts_with_other_line_ends_stay_whole_on_resume(tmp_path: Path) -> None:
    tracker = FileTracker(tmp_path)
    for step in range(4):
        tracker.log_table("samples", [{"prompt": ODD, "completion": f"{step}"}], step=step)
        tracker.log_table("alarms", [{"message": ODD}], step=step)
        tracker.log({"loss": 1.0}, step=step)
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 1, "prom')  # a kill in the middle of a line
    tracker.resume(step=2)
    samples = (tmp_path / "samples.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line) for line in samples] == [
        {"step": step, "prompt": ODD, "completion": f"{step}"} for step in (0, 1)
    ]
    assert (tmp_path / "alarms.jsonl").read_text().count("\n") == 2
    steps = [json.loads(x)["step"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "null", "{}", '{"inputs": [], "parents": {}}', "[" * 100_000, "\x00",
     '{"stage": "sft", "folder": "x", "fingerprint": "f", "inputs": {}, "parents": {}, '
     '"metrics": []}'],
    ids=range(9),
)  # fmt: skip
def test_a_malformed_record_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: not a run record") as caught:
        load_run(tmp_path)
    assert "\n" not in caught.value.message
