"""The main numbers of an evaluation as text, for the tables of the terminal and the page."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from alignment.evaluate.records import Estimate, Evaluation, Rule, Summary

Pick = Callable[[Summary], Estimate | None]


@dataclass(frozen=True)
class Cell:
    """One number of one model.

    `low`, `point` and `high` place the interval on a track from 0 to 1, and are None if there is no
    interval to draw. `change` is the change to the reference (shares in points), or a note;
    `verdict` is `better` or `worse` if the interval of the change excludes zero.
    """

    value: str
    interval: str = ""
    change: str = ""
    verdict: str = ""
    best: bool = False
    low: float | None = None
    point: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Column:
    """One measure over all models: a label, its meaning, and a cell for each model."""

    label: str
    hint: str
    cells: list[Cell]


@dataclass(frozen=True)
class _Measure:
    """The content of a column: the estimate of a model, its change, and their format."""

    label: str
    hint: str
    pick: Pick
    change: Pick = lambda model: None
    note: Callable[[Summary], str] = lambda model: ""
    percent: bool = False
    crown: bool = False


def headline(evaluation: Evaluation) -> list[Column]:
    """The columns of the headline table; a measure that no model has is left out."""
    measures = [_rule_measure(rule) for rule in evaluation.rules] + _measures(evaluation)
    columns = [_column(evaluation, measure) for measure in measures]
    return [column for column in columns if any(cell.value for cell in column.cells)]


def verdict(evaluation: Evaluation) -> str:
    """The main finding in one sentence: the best model by the first rule, else by win rate."""
    n = len(evaluation.rows)
    if evaluation.rules:
        return _rule_verdict(evaluation, evaluation.rules[0])
    judged = [model for model in evaluation.models if model.win_rate is not None]
    if judged:
        best = max(judged, key=lambda model: _value(model.win_rate))
        rate = best.win_rate
        assert rate is not None
        return (
            f"The reward model prefers {best.name} to {evaluation.reference} on "
            f"{percent(rate.value)} of {n} held-out prompts ({_interval_text(rate, percent)})."
        )
    return f"{len(evaluation.models)} models answered {n} held-out prompts."


def percent(value: float) -> str:
    """Format `0.913` as `91.3 %` with a no-break space."""
    return f"{100 * value:.1f}\u00a0%"


def number(value: float) -> str:
    """Format a number with three significant digits, integers in full, exponents only if needed."""
    if value == int(value) and abs(value) < 100_000:
        return f"{int(value):,}".replace("-", "\u2212")
    if abs(value) < 0.001 or abs(value) >= 100_000:
        return f"{value:.1e}".replace("-", "\u2212")
    digits = max(0, min(4, 2 - _magnitude(value)))
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def _magnitude(value: float) -> int:
    return len(str(int(abs(value)))) - 1 if abs(value) >= 1 else -1 if abs(value) >= 0.1 else -2


def _rule_verdict(evaluation: Evaluation, rule: Rule) -> str:
    scored = [model for model in evaluation.models if rule.name in model.rules]
    if not scored:
        return f"The rule {rule.name} does not apply to any prompt."
    best = max(scored, key=lambda model: model.rules[rule.name].value)
    write = percent if rule.is_share else number
    says = "is right on" if rule.is_share else f"scores by {rule.name}"
    text = f"{best.name} {says} {write(best.rules[rule.name].value)}"
    if rule.is_share:
        text += f" of {best.rules[rule.name].n} held-out prompts"
    gain = best.rule_gains.get(rule.name)
    if gain is None or evaluation.reference is None:
        return text + "."
    base = evaluation.summary(evaluation.reference).rules[rule.name]
    change = f"{_signed_points(gain.value)} points" if rule.is_share else _signed(gain.value)
    interval = f"95\u00a0% interval {_change_interval(gain, rule.is_share)}"
    doubt = "" if _direction(gain) else ", so no clear difference"
    return f"{text}, {evaluation.reference} on {write(base.value)}: {change} ({interval}{doubt})."


def _rule_measure(rule: Rule) -> _Measure:
    return _Measure(
        f"right ({rule.name})" if rule.is_share else rule.name,
        f"{'Share right' if rule.is_share else 'Mean score'} by the rule {rule.spec}",
        lambda model: model.rules.get(rule.name),
        change=lambda model: model.rule_gains.get(rule.name),
        percent=rule.is_share,
        crown=True,
    )


def _measures(evaluation: Evaluation) -> list[_Measure]:
    wins = "Share of answers that the reward model scores higher than the reference's; ties half"
    moved = "Nats by which the model's own sampled responses have moved from the reference"
    ended = "Share of answers that end by themselves (EOS) within the limit"
    return [
        _Measure(
            "reward",
            "Mean score by the reward model",
            lambda model: model.reward,
            change=lambda model: model.reward_gain,
            crown=True,
        ),
        _Measure("win rate", wins, lambda model: model.win_rate, percent=True),
        _Measure("KL", moved, lambda model: model.kl, note=_per_token),
        _Measure("length", "Mean tokens of an answer", lambda model: model.length),
        _Measure("ended", ended, lambda model: model.eos_rate, percent=True),
    ]


def _column(evaluation: Evaluation, measure: _Measure) -> Column:
    estimates = [measure.pick(model) for model in evaluation.models]
    values = [estimate.value for estimate in estimates if estimate is not None]
    top = max(values) if len(values) > 1 and values.count(max(values)) == 1 else None
    cells = []
    for model, estimate in zip(evaluation.models, estimates, strict=True):
        first = estimate is not None and estimate.value == top
        cell = _cell(
            estimate,
            measure.change(model),
            is_percent=measure.percent,
            best=measure.crown and first,
        )
        cells.append(replace(cell, change=cell.change or measure.note(model)))
    return Column(measure.label, measure.hint, cells)


def _per_token(model: Summary) -> str:
    estimate = model.kl_per_token
    return "" if estimate is None else f"{number(estimate.value)} a token"


def _cell(
    estimate: Estimate | None, change: Estimate | None, *, is_percent: bool, best: bool
) -> Cell:
    if estimate is None:
        return Cell("")
    write = percent if is_percent else number
    drawn = is_percent and estimate.low is not None
    return Cell(
        value=write(estimate.value),
        interval=_interval_text(estimate, write),
        change=_change_text(change, is_percent),
        verdict=_direction(change),
        best=best,
        low=estimate.low if drawn else None,
        point=estimate.value if drawn else None,
        high=estimate.high if drawn else None,
    )


def _interval_text(estimate: Estimate, write: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return f"n = {estimate.n}"
    low, high = (write(bound).removesuffix("\u00a0%") for bound in (estimate.low, estimate.high))
    return f"{low}\u00a0to\u00a0{high}"


def _change_text(change: Estimate | None, is_share: bool) -> str:
    if change is None:
        return ""
    text = _signed_points(change.value) if is_share else _signed(change.value)
    return f"{text} ({_change_interval(change, is_share)})".replace(" ", "\u00a0")


def _change_interval(change: Estimate, is_share: bool) -> str:
    if change.low is None or change.high is None:
        return f"n = {change.n}"
    if is_share:
        return f"{_signed_points(change.low)} to {_signed_points(change.high)}"
    return f"{_signed(change.low)} to {_signed(change.high)}"


def _signed_points(value: float) -> str:
    return f"{100 * value + 0.0:+.1f}".replace("-", "\u2212")


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def _direction(change: Estimate | None) -> str:
    if change is None or change.low is None or change.high is None:
        return ""
    return "better" if change.low > 0 else "worse" if change.high < 0 else ""


def _value(estimate: Estimate | None) -> float:
    return estimate.value if estimate is not None else float("-inf")
