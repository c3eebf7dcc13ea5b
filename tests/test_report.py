"""The report: a page that stands alone, escapes all, is equal for equal input, and says enough."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import DataError
from alignment.evaluate import Answer, AnswerRow, Estimate, Evaluation, NamedModel
from alignment.evaluate.summaries import Measured, rule_kinds, summarise
from alignment.registry import STAGES
from alignment.report import render_table, write_report
from alignment.report.answers import side_by_side
from alignment.report.charts import Line, lines
from alignment.report.curves import MOST_POINTS, draw_curves
from alignment.report.headline import headline, number
from alignment.runs.record import Parent, Run, Source

NASTY = "<script src='https://evil.example/x.js'>alert(1)</script>\" & $x$ 你好"
VOID = {"meta", "link", "br", "input", "img", "hr"}


class Page(HTMLParser):
    """Checks nesting and gathers tags, ids and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def values(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(attribute))]


def make_evaluation(names: tuple[str, ...] = ("sft", "dpo", "ppo"), rows: int = 40) -> Evaluation:
    """Answers that the second model gets right more often than the first; one of them is nasty."""
    measured = {}
    for m, name in enumerate(names):
        answers = []
        for i in range(rows):
            right = (i * 7) % 10 < 4 + 2 * m and not (m == 2 and i == 0)
            text = NASTY if i == 3 else f"answer {i} {'right' if right else f'wrong {m}'}"
            scores = {"exact": float(right), NASTY: None if i == 1 else 0.5 * m}
            answers.append(Answer(text, 5 + m, i != 2, scores, float(m) + i / 10))
        kls = [m * 1.5 + i / 100 for i in range(rows)] if m else []
        measured[name] = Measured(answers, kls, [6] * len(kls))
    rules = rule_kinds([("exact", "rules:exact"), (NASTY, "rules:nasty")], list(measured.values()))
    reference = measured[names[0]]
    return Evaluation(
        models=[
            summarise(
                NamedModel(name, f"no/such/{name}"),
                found,
                reference=None if found is reference else reference,
                rules=rules,
            )
            for name, found in measured.items()
        ],
        reference=names[0],
        rules=rules,
        reward_model="runs/rm",
        prompts={"path": f"data/{NASTY}.jsonl", "sha256": "ab" * 32, "rows": rows},
        options={"temperature": 0.0, "max_new_tokens": 16, "seed": 0},
        versions={"torch": "2"},
        device="cpu",
        rows=[
            AnswerRow(
                i,
                [{"role": "user", "content": NASTY if i == 4 else f"question {i}"}],
                {"gold": NASTY, "language": "en" if i % 2 else "zh"},
                {name: measured[name].answers[i] for name in names},
            )
            for i in range(rows)
        ],
    )


def make_run(folder: Path, stage: str, parents: dict[str, Path], **changes: Any) -> Path:
    run = Run(
        stage=stage,
        name=folder.name,
        fingerprint=f"{stage:0>16}",
        status="finished",
        settings={
            "beta": {"value": 0.3, "source": "dpo.yaml:4"},
            "seed": {"value": 42, "source": "default"},
            "note": {"value": NASTY, "source": NASTY},
        },
        inputs={"train": [Source(f"{NASTY}.jsonl", "cd" * 32, 10)]},
        parents={role: Parent(str(path), "f" * 16, None) for role, path in parents.items()},
        started=1_700_000_000.0 + len(stage),
        ended=1_700_000_100.0,
        metrics={"eval_loss": 0.5, "note": NASTY},
    )
    dataclasses.replace(run, **changes).write(folder)
    return folder


def log(folder: Path, keys: list[str], steps: int = 5) -> None:
    lines = [
        {"step": i, "epoch": i / steps, "time": 0.0, **{key: i + k for k, key in enumerate(keys)}}
        for i in range(1, steps + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """sft -> rm, dpo; ppo from sft and rm, as a pipeline leaves them."""
    root = tmp_path / "road"
    sft = make_run(root / "sft", "sft", {"model": tmp_path / "base"})
    rm = make_run(root / "rm", "rm", {"model": sft})
    make_run(root / "dpo", "dpo", {"model": sft}, status="failed", error=NASTY)
    make_run(root / "ppo", "ppo", {"model": sft, "reward_model": rm})
    for stage in ("sft", "rm", "dpo", "ppo"):
        log(root / stage, [key for panel in STAGES[stage].panels for key, _ in panel.keys])
    return root


def write(folder: Path, **inputs: Any) -> tuple[str, Page]:
    text = write_report(folder / "report.html", **inputs).read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(
    runs: Path, tmp_path: Path
) -> None:
    text, page = write(tmp_path, evaluation=make_evaluation(), runs=runs)
    assert text.startswith("<!doctype html>")
    assert not [tag for tag, _ in page.tags if tag in {"script", "iframe", "img", "object"}]
    assert not re.search(r"@import|url\((?!#)", text)
    addresses = page.values("href") + page.values("src")
    assert all(value.startswith("#") or value == "data:," for value in addresses)
    # Every address in the text is one that an answer or a setting brought, escaped.
    assert len(re.findall(r"https?://", text)) == len(re.findall(r"https://evil\.example", text))
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_ids_are_unique_and_every_reference_is_met(runs: Path, tmp_path: Path) -> None:
    text, page = write(tmp_path, evaluation=make_evaluation(), runs=runs)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = {value[1:] for value in page.values("href") if value.startswith("#")}
    assert targets | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_everything_is_escaped(runs: Path, tmp_path: Path) -> None:
    names = ("sft", NASTY)
    text, page = write(tmp_path, evaluation=make_evaluation(names, rows=12), runs=runs, title=NASTY)
    assert "<script" not in text
    assert page.text.count(NASTY) > 20  # titles, names, answers, prompts, settings, errors, charts
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_equal_input_gives_an_equal_page(runs: Path, tmp_path: Path) -> None:
    first, _ = write(tmp_path / "a", evaluation=make_evaluation(), runs=runs)
    second, _ = write(tmp_path / "b", evaluation=make_evaluation(), runs=runs)
    assert first == second


def test_the_page_says_what_was_found(runs: Path, tmp_path: Path) -> None:
    text, page = write(tmp_path, evaluation=make_evaluation(), runs=runs)
    plain = " ".join(page.text.split())
    assert "ppo is right on 77.5 % of 40 held-out prompts, sft on 40.0 %: +37.5 points" in plain
    assert "24 of 40 prompts" in plain
    assert "beta 0.3 dpo.yaml:4" in plain
    assert "seed 42" not in plain  # a default
    assert "reward model: rm" in plain
    assert sum("KL" in title for title in page.values("aria-label")) >= 3
    for stage in ("sft", "rm", "dpo", "ppo"):
        assert len(re.findall(rf'aria-label="{STAGES[stage].panels[0].title}"', text)) >= 1


def test_the_lineage_is_a_tree_below_the_model_that_each_run_started_from(
    runs: Path, tmp_path: Path
) -> None:
    text, _ = write(tmp_path, runs=runs)
    tree = text[text.index('<ul class="tree') : text.index('<section id="training"')]
    depth, found = 0, {}
    for tag, stage in re.findall(r'<(/?ul)|class="stage">(\w+)', tree):
        depth += {"ul": 1, "/ul": -1, "": 0}[tag]
        if stage:
            found[stage] = depth
    assert found == {"sft": 1, "rm": 2, "dpo": 2, "ppo": 2}


def test_runs_alone_and_an_evaluation_alone_make_a_page(runs: Path, tmp_path: Path) -> None:
    _, page = write(tmp_path / "runs", runs=runs)
    assert "4 runs, no evaluation yet." in page.text
    _, page = write(tmp_path / "evaluation", evaluation=make_evaluation())
    assert "Lineage" not in page.text


def test_nothing_to_report_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run and no evaluation"):
        write_report(tmp_path / "report.html", runs=tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_an_evaluation_without_rules_rewards_or_reference(tmp_path: Path) -> None:
    full = make_evaluation()
    bare = dataclasses.replace(
        full,
        models=[
            dataclasses.replace(
                model,
                rules={},
                rule_gains={},
                reward=None,
                reward_gain=None,
                win_rate=None,
                kl=None,
            )
            for model in full.models
        ],
        reference=None,
        rules=[],
        reward_model=None,
        rows=[
            dataclasses.replace(
                row,
                answers={n: dataclasses.replace(a, reward=None) for n, a in row.answers.items()},
            )
            for row in full.rows
        ],
    )
    _, page = write(tmp_path, evaluation=bare)
    assert "3 models answered 40 held-out prompts." in page.text
    assert "length" in render_table(bare)


def test_cards_show_gains_and_losses_before_the_rest() -> None:
    evaluation = make_evaluation()
    cards, counts = side_by_side(evaluation, most=10)
    assert len(cards) == 10
    assert sum(counts.values()) == 40
    order = [("gained", "lost", "differs", "same").index(card.kind) for card in cards]
    assert order == sorted(order)
    assert {"gained", "lost"} <= {card.kind for card in cards}
    for card in cards:
        marks = [answer.mark == "right" for answer in card.answers]
        if card.kind == "gained":
            assert not marks[0]
            assert any(marks[1:])
        if card.kind == "lost":
            assert marks[0]
            assert not all(marks[1:])


def test_the_table_holds_every_number_and_fits_its_width() -> None:
    evaluation = make_evaluation()
    table = render_table(evaluation, width=100)
    assert max(map(len, table.splitlines())) <= 100
    assert "\x1b[" not in table
    assert "\x1b[" in render_table(evaluation, color=True)
    for column in headline(evaluation):
        for cell in column.cells:
            assert cell.value in table


def test_a_change_is_better_or_worse_only_where_its_interval_leaves_out_zero() -> None:
    evaluation = make_evaluation()
    exact = headline(evaluation)[0]
    assert [cell.verdict for cell in exact.cells] == ["", "better", "better"]
    unsure = dataclasses.replace(
        evaluation.models[1], rule_gains={"exact": Estimate(0.1, -0.1, 0.3, 40)}
    )
    models = [evaluation.models[0], unsure, evaluation.models[2]]
    changed = headline(dataclasses.replace(evaluation, models=models))[0]
    assert changed.cells[1].verdict == ""
    assert [cell.best for cell in changed.cells] == [False, False, True]


def test_a_tie_has_no_best_and_an_interval_over_zero_no_clear_difference(tmp_path: Path) -> None:
    evaluation = make_evaluation()
    level = [
        dataclasses.replace(
            model,
            rules={**model.rules, "exact": Estimate(0.5, 0.35, 0.65, 40)},
            rule_gains={**model.rule_gains, "exact": Estimate(0.0, -0.1, 0.1, 40)},
        )
        for model in evaluation.models[1:]
    ]
    tied = dataclasses.replace(evaluation, models=[evaluation.models[0], *level])
    assert not any(cell.best for cell in headline(tied)[0].cells)
    _, page = write(tmp_path, evaluation=tied)
    assert "so no clear difference" in page.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (2.0, "2"),
        (-1.2345, "\u22121.23"),
        (0.01234, "0.0123"),
        (0.5, "0.500"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234.5, "1,234"),
        (0.00001234, "1.2e\u221205"),
        (2_500_000.5, "2.5e+06"),
    ],
)
def test_numbers_are_written_short(value: float, text: str) -> None:
    assert number(value) == text


def test_curves_come_from_what_was_logged(tmp_path: Path) -> None:
    log(tmp_path, ["loss", "odd/metric"], steps=3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": null}\n{"step": 5, "lo')  # still being written
    (curve,) = draw_curves(tmp_path, "sft", name="a")
    assert (curve.title, curve.last) == ("Loss", "3")
    titles = [curve.title for curve in draw_curves(tmp_path, "own-stage", name="a")]
    assert titles == ["loss", "odd/metric"]
    assert draw_curves(tmp_path / "none", "sft", name="a") == []


def test_a_long_run_does_not_swell_the_page(tmp_path: Path) -> None:
    log(tmp_path, ["loss"], steps=20 * MOST_POINTS)
    (curve,) = draw_curves(tmp_path, "sft", name="a")
    assert len(curve.svg) < 40_000


def test_a_smoothed_line_does_not_lag_behind_a_trend() -> None:
    from alignment.report.charts import _smooth

    straight = [3.0 * i for i in range(100)]
    assert _smooth(straight) == pytest.approx(straight)


def test_a_drawing_takes_the_pages_colours_and_type() -> None:
    svg = lines([Line("a", [1, 2], [1, 2], 0)], baseline=1.0, name="x")
    assert "var(--s0)" in svg
    assert "var(--sans)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "DejaVu" not in svg
