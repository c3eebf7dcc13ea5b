"""Random JSON through every command's first steps: a sentence or a record, never a traceback."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alignment.errors import AlignError, DataError
from data_tools.checks.records import record_findings
from data_tools.convert.run import convert
from data_tools.convert.writer import Conversion
from data_tools.formats import FORMATS, Pairing, Record, Unusable, adapted, pairs_of
from data_tools.reading import Row, json_rows, read_rows

WORDS = sorted(
    {key for adapter in FORMATS for key in adapter.needs}
    | {"role", "content", "from", "value", "text", "history", "system", "input", "replies", "rank"}
    | {"annotations", "Rating", "margin", "score_chosen", "score_rejected", "response", "label"}
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "user",
            "assistant",
            "human",
            "gpt",
            "\n\nHuman: q\n\nAssistant: a",
            "Human:a\nAssistant:b\nHuman:c\nAssistant:",
            "<extra_id_1>User\nq\n<extra_id_1>Assistant\n",
            "NA",
        ]
    ),
    st.text(max_size=12),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    TEXTS,
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), inner, max_size=4),
    ),
    max_leaves=8,
)
ROWS = st.one_of(
    st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=6),
    *[
        st.fixed_dictionaries(dict.fromkeys(adapter.needs, VALUES), optional={"zzz": VALUES})
        for adapter in FORMATS
    ],
)


def digest_row(data: dict[str, Any]) -> None:
    """A row through detection, every adapter by force, pairing and the checks."""
    row = Row("x.jsonl", 1, 1, data)
    for forced in (None, *FORMATS):
        for found in adapted([row], forced=forced):
            record = found.record
            if isinstance(record, Unusable):
                assert record.code
                assert record.reason
                continue
            if record.kind == "ranked":
                for policy in ("all-pairs", "best-vs-random", "adjacent"):
                    pairs_of(record, Pairing(policy))
            elif forced is None:
                list(record_findings(record))
                assert isinstance(record, Record)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@example({"prompt": None, "chosen": None, "reject": [{"role": None}, None]})
@example({"prompt": "", "responses": []})
@given(ROWS)
def test_any_row_gives_a_record_or_a_reason(data: dict[str, Any]) -> None:
    digest_row(data)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(ROWS)
def test_any_of_100_000_rows_gives_a_record_or_a_reason(data: dict[str, Any]) -> None:
    digest_row(data)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.binary(max_size=60), st.lists(VALUES, max_size=3).map(repr).map(str.encode)))
@example(b"\x1f\x8b")  # the begin of a packed file alone
def test_any_bytes_give_rows_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    for content in (raw, b"[" + raw + b"]", b'{"a":' + raw + b"}\n{}"):
        path.write_bytes(content)
        with contextlib.suppress(AlignError):
            list(read_rows(path, on_error=lambda _: None))
        with contextlib.suppress(DataError):
            convert([str(path)], path.with_name("out.jsonl"), Conversion(drop=True))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), min_size=1, max_size=6),
    st.integers(1, 50),
)
def test_arrays_are_read_as_the_standard_library_reads_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], piece: int
) -> None:
    import json

    path: Path = tmp_path_factory.getbasetemp() / "fuzz.json"
    text = json.dumps(rows, allow_nan=False) if not _has_nan(rows) else "[{}]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "PIECE", piece)
        path.write_text(text)
        errors: list[DataError] = []
        found = [row.data for row in read_rows(path, on_error=errors.append)]
    if not errors:
        assert json.dumps(found) == json.dumps(json.loads(text))
    assert all("surrogate" in str(e) or "double" in str(e) for e in errors)


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return value != value or abs(value) == float("inf")
    if isinstance(value, dict):
        return any(map(_has_nan, value.values()))
    return isinstance(value, list) and any(map(_has_nan, value))
