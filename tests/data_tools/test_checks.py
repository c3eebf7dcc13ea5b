"""The labelled real defects, each check by hand, and the false alarms counted."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import REPOSITORY, write_jsonl

from data_tools.checks import CHECKS, Finding
from data_tools.checks.language import chinese_script, language
from data_tools.checks.lengths import LengthBias
from data_tools.checks.records import record_findings
from data_tools.checks.sets import in_circles
from data_tools.checks.texts import redacted, text_findings
from data_tools.checks.validate import Report, validate
from data_tools.cli import data
from data_tools.formats import Pairing, Record

SOURCES = {
    "hh": "permissive/hh_harmless_test.jsonl.gz",
    "dpo_zh_demo": "permissive/dpo_zh_demo.json",
    "dpo_en_demo": "permissive/dpo_en_demo.json",
    "oaast_rm_zh": "permissive/oaast_rm_zh.json",
}
SUPERSEDED = {"language_mismatch"}
"""Labels by the share of letters in all characters: of answers with code, digits or tables."""
NO_DEFECTS = {
    "pii_email": {("hh", 249)},  # at example.com
    "zero_width_or_control": {  # joiners of emoji, and a letter of Persian
        ("dpo_zh_demo", 148),
        ("dpo_zh_demo", 208),
        ("dpo_zh_demo", 278),
    },
    "literal_backslash_n": {  # in strings of code, and in formulas
        *(("oaast_rm_zh", row) for row in (188, 330, 501, 502, 613, 658, 665)),
        *(("dpo_zh_demo", row) for row in (222, 224)),
        *(("dpo_en_demo", row) for row in (31, 117, 229, 266)),
    },
}
"""Labels by code that name no defect, with their source and row."""
ACROSS_ROWS = {"duplicate_prompt", "prompt_mismatch"}
"""Labels that only the source shows: the other row, or the other prompt, is not with them."""


def codes_by_row(path: Path) -> dict[int, set[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    validate([path], each=lambda located: found[located.where.row].add(located.finding.code))
    return found


def test_all_labelled_defects_are_found_under_their_code(shared_data: Path) -> None:
    labelled = shared_data / "derived/real_defects.jsonl"
    defects = [json.loads(line) for line in labelled.read_text("utf-8").splitlines()]
    here = codes_by_row(labelled)
    there = {name: codes_by_row(shared_data / file) for name, file in SOURCES.items()}
    missed = [
        (number, defect["code"])
        for number, defect in enumerate(defects, start=1)
        if (defect["source"], defect["row"] + 1) not in NO_DEFECTS.get(defect["code"], ())
        and defect["code"] not in SUPERSEDED
        and defect["code"]
        not in (
            there[defect["source"]][defect["row"] + 1]
            if defect["code"] in ACROSS_ROWS
            else here[number]
        )
    ]
    assert len(defects) == 124
    assert missed == []


def test_every_label_is_found_in_its_source_too_and_nothing_else_under_its_code(
    shared_data: Path,
) -> None:
    """False alarms on the slices that the labels were taken from, for the codes labelled in full.

    The labels of empty answers, equal answers, U+FFFD, hidden characters and numbers are complete:
    what is found beyond them is either a false alarm or named here.
    """
    labelled = shared_data / "derived/real_defects.jsonl"
    labels: dict[tuple[str, str], set[int]] = defaultdict(set)
    for line in labelled.read_text("utf-8").splitlines():
        defect = json.loads(line)
        place = (defect["source"], defect["row"] + 1)
        if defect["code"] not in SUPERSEDED and place not in NO_DEFECTS.get(defect["code"], ()):
            labels[defect["source"], defect["code"]].add(defect["row"] + 1)
    beyond: Counter[tuple[str, str]] = Counter()
    for name, file in SOURCES.items():
        found = codes_by_row(shared_data / file)
        for code in {code for source, code in labels if source == name}:
            rows = {row for row, codes in found.items() if code in codes}
            assert labels[name, code] <= rows
            beyond[name, code] = len(rows - labels[name, code])
    complete = {key: count for key, count in beyond.items() if key[1] not in SAMPLED}
    assert {key: count for key, count in complete.items() if count} == {
        ("hh", "prompt_mismatch"): 1,  # row 1951: the rejected side has a turn more
        ("dpo_en_demo", "zero_width_or_control"): 1,  # in a prompt; labels look at answers
    }


SAMPLED = {"role_marker_in_body", "language_mismatch", "literal_backslash_n"}
"""Codes of which 20 rows were labelled and more are real."""


COUNTS = {
    "permissive/dpo_zh_demo.json": {
        "answer_is_prefix": 1,
        "duplicate_pair": 11,
        "duplicate_prompt": 11,
        "html": 1,
        "length_bias": 1,
        "replacement_char": 6,
        "script_mismatch": 1,
        "template_shortcut": 1,
        "unfinished_answer": 3,
        "zero_width_or_control": 1,
    },
    "permissive/mt_bench_zh_question.jsonl": {"unused_column": 80},
    "permissive/alpaca_zh_extra.json": {
        "duplicate_prompt": 28,
        "near_duplicate": 1,
        "no_final_mark": 2,
        "unfinished_answer": 1,
    },
    "permissive/nemo_dummy_dpo.jsonl": {
        "duplicate_pair": 96,
        "duplicate_prompt": 96,
        "template_shortcut": 2,
    },
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_on_real_slices(shared_data: Path, name: str) -> None:
    assert dict(validate([shared_data / name]).totals) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "pairs", "mismatched"),
    [("dpo_zh_demo", 300, 0), ("dpo_en_demo", 300, 0), ("oaast_rm_zh", 1809, 52)],
)
def test_languages_differ_as_often_as_counted(
    shared_data: Path, name: str, pairs: int, mismatched: int
) -> None:
    report = validate([shared_data / SOURCES[name]])
    assert sum(report.records.values()) == pairs
    assert report.totals["language_mismatch"] == mismatched


TEXTS = [
    ("mail me: a.b@uni-mail.org", "pii_email"),
    ("write to a@example.com. or b@mail.example.org", ""),
    ("your.name@gmail.com, user@domain.com, git@github.com:a/b", ""),
    ("icon@2x.png and @decorator.name and a@b.cc", ""),
    ("mask 255.255.255.0, 127.0.0.1, 0.0.0.0, 10.1.2.3, 8.8.8.8, v2.3.4.5", ""),
    ("host 151.101.65.69 is up", "pii_ipv4"),
    ("ssn 900-45-6789 and 000-12-3456", ""),
    ("身份证 11010519491331002X", ""),  # no such month
    ("打 13812345678 找我", "pii_phone_cn"),
    ("call +1 (202) 555-0143 now", "pii_phone_us"),
    ("ssn 123-45-6789", "pii_ssn_like"),
    ("身份证 11010519491231002X", "pii_id_cn"),
    ("card 4111 1111 1111 1111", ""),  # one digit over and over is no real card
    ("card 4539 1488 0343 6467", "pii_card"),
    ("card 4539 1488 0343 6468", ""),
    ("version 1.2.3.400", ""),
    ("key AKIAIOSFODNN7EXAMPLE", "secret"),
    ("xoxb-123456789012-abcdef", "secret"),
    ("gh and sk- and hf_ alone", ""),
    ("-----BEGIN RSA PRIVATE KEY-----", "secret"),
    ("he said Human: no", "role_marker_in_body"),
    ("Superhuman: the film", ""),
    ("done<|im_end|>", "special_token"),
    ("[INST] x", "special_token"),
    ("好的<｜end▁of▁sentence｜>", "special_token"),
    ("<|reserved_special_token_0|>", "special_token"),
    ("a < b | c > d", ""),
    ("a\\nb", "literal_backslash_n"),
    ("end.\\n\\nNext", "literal_backslash_n"),
    ('printf("%d\\n", x); and $a \\neq b$ and the \\n at the end and `a\\nb`', ""),
    ("a\ufffdb", "replacement_char"),
    ("a\u200bb", "zero_width_or_control"),
    ("a\x07b", "zero_width_or_control"),
    ("family 👩‍🏫 🧙‍♂️ 👨🏽‍💻 ❤️‍🔥 🏳️‍🌈", ""),
    ("می‌خواهم שלום\u200f", ""),
    ("a\u200db", "zero_width_or_control"),
    ("👩\u200d b", "zero_width_or_control"),
    ("a\u200e", "zero_width_or_control"),
    ("<br/>", "html"),
    ("write `<br/>` or\n```html\n<p>x</p>\n```", ""),
    ("a < b &amp; c", "html"),
    ("fiancÃ© was here", "mojibake"),
    ("naïve café, 很好", ""),
    ("11010519491231002 1", ""),
    ("普通的一句话。", ""),
    ("1234567890123", ""),
]


@pytest.mark.parametrize(("text", "code"), TEXTS)
def test_texts_by_hand(text: str, code: str) -> None:
    assert {finding.code for finding in text_findings(text, "x")} == ({code} if code else set())


@pytest.mark.parametrize(("text", "code"), [t for t in TEXTS if t[1].startswith(("pii", "secret"))])
def test_reports_hold_no_personal_data(text: str, code: str) -> None:
    (finding,) = text_findings(text, "x")
    kept = [piece for piece in text.split() if any(c.isdigit() for c in piece)]
    assert not any(piece in finding.found for piece in kept)
    assert not any(piece in redacted(text) for piece in kept)


def pair(chosen: str, rejected: str, prompt: str = "How many apples are there?") -> Record:
    return Record("preference", prompt, chosen, rejected)


PAIRS: list[tuple[Record, set[str]]] = [
    (pair("Four apples.", " Four apples.\n"), {"chosen_eq_rejected"}),
    (pair("２ + ２ ＝ 4.", "2+2=4."), {"chosen_eq_rejected_normalised"}),
    (
        pair("Four apples are here, I think.", "Four apples are here, i think!"),
        {"chosen_near_rejected"},
    ),
    (pair("Four apples, of which one is bad.", "Four apples"), {"answer_is_prefix"}),
    (pair("There are four.", "一共有四个苹果。"), {"language_mismatch"}),
    (pair("一共有四个苹果。", "桌子上有五个苹果。"), {"language_of_prompt"}),
    (
        pair(
            "There are four.",
            "I looked at it. There may be some apples on the table, but I do not see any of them "
            "on this tab",
        ),
        {"no_final_mark"},
    ),
    (
        pair(
            "一共有四个苹果。",
            "桌子上有苹果。不过，我要先看看厨房里和冰箱里还有没有别的水果，然后再告诉你一共有",
            "有几个苹果？",
        ),
        {"unfinished_answer"},
    ),
    (
        pair(
            "There are four.",
            "Here they are:\n\n- a red apple from the garden\n- a green apple from the shop",
        ),
        set(),
    ),
    (
        pair(
            "There are four.",
            "Run this. It counts the apples for you in a moment:\n```\nprint(len(apples))\n```",
        ),
        set(),
    ),
    (
        pair(
            "There are four.",
            "We add them. Then the number of all apples is $a + b$ = 3 + 1 = four",
        ),
        set(),
    ),
    (pair("There are four.", "I counted them twice. Best regards,\nAnna"), set()),
    (
        pair("这个苹果说的是时间问题。", "這個蘋果說的是時間問題呢。", "有几个苹果？"),
        {"script_mismatch"},
    ),
    (pair("There are four.", "Go away.", "Count\nNo input"), {"sentinel_input"}),
    (pair("There are four.", "Go away.", "Count\n&lt;无输入&gt;"), {"sentinel_input", "html"}),
    (pair("There are four.", "Go away.", "Count\n（不适用）"), {"sentinel_input"}),
    (pair("There are four.", "&lt;No output&gt;"), {"sentinel_output", "html"}),
    (pair("There are four.", "None."), set()),
    (pair("x = 34152; y = 2", "There are four."), set()),
    (
        pair(
            "用 `npm install express` 安装，然后运行 `node app.js`。",
            "先安装 Express 和 Node，再运行。",
            "怎么启动？",
        ),
        set(),
    ),
    (replace(pair("There are four.", "Go away."), margin=0.0), {"tie"}),
    (replace(pair("There are four.", "Go away."), margin=-1.0), {"negative_margin"}),
    (pair("There are four.", "Go away."), set()),
]


@pytest.mark.parametrize(("record", "codes"), PAIRS)
def test_pairs_by_hand(record: Record, codes: set[str]) -> None:
    assert {finding.code for finding in record_findings(record)} == codes


def test_turns_out_of_order() -> None:
    turns = [{"role": r, "content": "Fine."} for r in ("user", "user", "assistant", "user")]
    findings = list(record_findings(Record("sft", messages=turns)))
    assert findings == [Finding("role_order", "messages", "turns 1 and 2 are both of the user")]


def edges(*names: str) -> list[dict[str, Any]]:
    return [{"prompt": "Question?", "chosen": n[0] * 20, "rejected": n[1] * 20} for n in names]


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (edges("ab", "ba"), {"contradiction": 2, "duplicate_prompt": 1}),
        (edges("ab", "bc", "ca"), {"preference_cycle": 3, "duplicate_prompt": 2}),
        (edges("ab", "bc"), {"chosen_elsewhere_rejected": 2, "duplicate_prompt": 1}),
        (edges("ab", "ab"), {"duplicate_pair": 1, "duplicate_prompt": 1}),
        (edges("ab", "ac"), {"duplicate_prompt": 1}),
        (
            [
                {"prompt": f"Question {i}?", "chosen": "c" * i, "rejected": "I cannot."}
                for i in range(1, 6)
            ],
            {"rejected_in_many": 1},
        ),
    ],
)
def test_sets_by_hand(tmp_path: Path, rows: list[dict[str, Any]], counts: dict[str, int]) -> None:
    totals = validate([write_jsonl(tmp_path / "in.jsonl", rows)]).totals
    ignored = {"unfinished_answer", "no_final_mark", "chosen_near_rejected", "answer_is_prefix"}
    assert {code: n for code, n in totals.items() if code not in ignored} == counts


def test_repeats_are_found_across_files(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "a.jsonl", edges("ab"))
    other = write_jsonl(tmp_path / "b.jsonl", edges("ba"))
    assert validate([one, other]).totals["contradiction"] == 2


def test_circles_are_the_strongly_connected_parts() -> None:
    circle = {("a", "b"), ("b", "c"), ("c", "a")}
    ends = {("c", "d"), ("x", "a")}
    assert in_circles(circle | ends) == [{"a", "b", "c"}]
    assert in_circles({("a", "b"), ("b", "c"), ("a", "c")}) == []
    other = {("p", "q"), ("q", "r"), ("r", "p")}
    between = {("c", "m"), ("m", "p")}  # on the way from circle to circle, on none itself
    found = in_circles(circle | other | between)
    assert sorted(map(sorted, found)) == [["a", "b", "c"], ["p", "q", "r"]]


def test_a_circle_beside_a_contradiction_is_found(tmp_path: Path) -> None:
    rows = edges("ab", "bc", "ca", "xy", "yx")
    totals = validate([write_jsonl(tmp_path / "in.jsonl", rows)]).totals
    assert (totals["preference_cycle"], totals["contradiction"]) == (3, 2)


@pytest.mark.parametrize(
    ("names", "leaked"),
    [
        (("set.train.jsonl", "set.eval.jsonl"), 1),
        (("dev-00000.jsonl", "train-00000.jsonl"), 1),
        (("set.test.jsonl", "set.eval.jsonl"), 0),
        (("train_a.jsonl", "train_b.jsonl"), 0),
        (("a.jsonl", "set.eval.jsonl"), 0),
    ],
)
def test_a_prompt_in_train_and_eval_files_is_a_leak(
    tmp_path: Path, names: tuple[str, str], leaked: int
) -> None:
    files = [write_jsonl(tmp_path / name, edges("ab")) for name in names]
    totals = validate(files).totals
    assert (totals["leak_exact"], totals["duplicate_prompt"]) == (leaked, 1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("你好，世界", "zh"),
        ("Hello, big world", "en"),
        ("Open Assistant", "other"),
        ("Hello 世界 and good morning to all", "mixed"),
        ("42351", "other"),
        ("привет", "other"),
        ("これは日本語の文章です。", "ja"),
        ("东京的日语写作「東京」，没有别的。", "zh"),
        ("안녕하세요, 만나서 반갑습니다.", "ko"),
        ("", "other"),
    ],
)
def test_language_by_script(text: str, wanted: str) -> None:
    assert language(text) == wanted


def test_chinese_scripts() -> None:
    assert chinese_script("這個問題") == "traditional"
    assert chinese_script("这个问题") == "simplified"
    assert chinese_script("一二三") == ""


def test_length_bias_by_hand() -> None:
    bias = LengthBias()
    for chosen, rejected in ((3, 1), (5, 2), (1, 2), (4, 4)):
        bias.add_lengths(chosen, rejected)
    assert bias.share == (2 + 0.5) / 4
    assert bias.as_json()["mean_ratio"] == pytest.approx((3 + 2.5 + 0.5 + 1) / 4)
    assert bias.finding() is None  # too few pairs to say


@pytest.mark.parametrize(
    ("longer", "found"), [(500, None), (590, None), (640, ""), (800, "strong: ")]
)
def test_length_bias_warns_outside_its_bounds(longer: int, found: str | None) -> None:
    finding = LengthBias(longer=longer, shorter=1000 - longer).finding()
    assert (finding is None) == (found is None)
    if finding and found is not None:
        assert finding.found.startswith(f"{found}chosen longer in {longer / 10:.0f}%")


def test_the_bootstrap_interval_is_the_binomial_one() -> None:
    low, high = LengthBias(longer=600, shorter=400).interval()
    error = 1.96 * (0.6 * 0.4 / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.6 - error, 0.6 + error), abs=0.006)


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        ([{"prompt": "Why?", "chosen": "So.", "rejected": "No."}], [], 0),
        (edges("ab", "ac"), [], 0),
        (edges("ab", "ac"), ["--fail-on", "duplicate_prompt"], 1),
        (edges("ab", "ac"), ["--fail-on", "warn"], 1),
        (edges("ab", "ba"), [], 1),
        ([{"prompt": "Why?", "chosen": "So.", "rejected": "No."}], ["--fail-on", "typo"], 2),
    ],
)
def test_exit_codes(
    tmp_path: Path, rows: list[dict[str, Any]], options: list[str], code: int
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    done = CliRunner().invoke(data, ["validate", str(source), *options])
    assert done.exit_code == code, done.output


def test_rows_that_cannot_be_read_are_findings(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{oops\n{"a": 1}\n{"prompt": "q", "chosen": "", "rejected": "b"}\n')
    report = validate([path])
    assert dict(report.totals) == {"malformed": 1, "schema": 1, "empty_chosen": 1}
    assert report.rows[str(path)] == 3


def test_the_report_holds_fingerprints_and_known_codes(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", edges("ab", "ba"))
    out, findings = tmp_path / "report.json", tmp_path / "findings.jsonl"
    CliRunner().invoke(
        data, ["validate", str(source), "--report", str(out), "--findings", str(findings)]
    )
    report = json.loads(out.read_text())
    assert len(report["inputs"][str(source)]["sha256"]) == 64
    assert {f["code"] for f in report["findings"]} <= set(CHECKS)
    lines = [json.loads(line) for line in findings.read_text().splitlines()]
    assert sum(f["count"] for f in report["findings"]) == len(lines)


def test_failing_needs_an_error_or_a_name() -> None:
    report = Report()
    assert report.failed([]) == []
    report.counts.update({("a", "html"): 1, ("a", "tie"): 2, ("b", "secret"): 1})
    assert report.failed([]) == ["secret"]
    assert report.failed(["html"]) == ["html", "secret"]
    assert report.failed(["warn"]) == ["secret", "tie"]
    assert report.failed(["info", "secret"]) == ["html", "secret", "tie"]


def test_the_readme_lists_every_code_with_its_severity_and_meaning() -> None:
    readme = (REPOSITORY / "data_tools/README.md").read_text("utf-8")
    for code, check in CHECKS.items():
        assert f"| `{code}` | {check.severity} | {check.meaning} |" in readme.splitlines()


@pytest.mark.parametrize(
    ("options", "pairs", "told"),
    [
        ([], 2, ""),
        (["--pairing", "all-pairs"], 4, "2 pairs not counted: both answers have the same score"),
        (
            ["--pairing", "all-pairs", "--max-pairs", "1"],
            2,
            "4 pairs not counted: the prompt has more",
        ),
        (["--pairing", "adjacent"], 2, "2 pairs not counted: both answers have the same score"),
        (["--min-margin", "2.5"], 1, "1 pairs not counted: the scores are closer than"),
    ],
)
def test_rankings_are_paired_as_convert_pairs_them(
    tmp_path: Path, options: list[str], pairs: int, told: str
) -> None:
    answers = ["Four apples are here.", "Hardly any.", "None."]
    rows = [
        {"prompt": f"How many, {i}?", "responses": answers, "scores": scores}
        for i, scores in enumerate(([3.0, 1.0, 1.0], [3.0, 0.0, 0.0]))
    ]
    source, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = CliRunner().invoke(data, ["convert", str(source), "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    assert len(out.read_text("utf-8").splitlines()) == pairs
    report = tmp_path / "report.json"
    done = CliRunner().invoke(data, ["stats", str(source), "--report", str(report), *options])
    assert json.loads(report.read_text())[0]["kinds"] == {"preference": pairs}
    assert told in done.output
    CliRunner().invoke(data, ["validate", str(source), "--report", str(report), *options])
    wanted = pairs if options else 4  # validate looks at all pairs unless told otherwise
    if "--min-margin" in options:
        wanted = 2  # all pairs, of which the two of one prompt are wide enough
    assert sum(json.loads(report.read_text())["records"].values()) == wanted


def test_a_least_margin_holds_for_pairs_too(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{i}?", "chosen": "Yes.", "rejected": "No.", "margin": margin}
        for i, margin in enumerate([0.5, 2.0, None])
    ]
    totals = validate(
        [write_jsonl(tmp_path / "in.jsonl", rows)], pairing=Pairing("all-pairs", min_margin=1.0)
    ).totals
    assert dict(totals) == {"min_margin": 1, "no_margin": 1}
