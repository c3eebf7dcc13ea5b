"""Summarise the answers and scores of each model, with intervals; needs no torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from alignment.evaluate import statistics
from alignment.evaluate.records import Answer, Estimate, NamedModel, Rule, Summary
from alignment.models.folders import adapter_base
from alignment.runs import find_run


@dataclass(frozen=True)
class Measured:
    """One model's answers in the order of the prompts, and its KL to the reference.

    `kls` and `sampled_lengths` belong to the sampled responses; both are empty for the reference
    itself, without a reference, and if `kl_note` gives a reason why the KL is undefined.
    """

    answers: list[Answer]
    kls: list[float]
    sampled_lengths: list[int]
    kl_note: str = ""


def rule_kinds(rules: Sequence[tuple[str, str]], measured: Sequence[Measured]) -> list[Rule]:
    """The rules, each with whether all its scores are 0 or 1 in the answers of all models."""
    found = []
    for name, spec in rules:
        scores = {answer.scores[name] for model in measured for answer in model.answers}
        found.append(Rule(name, spec, scores <= {0.0, 1.0, None}))
    return found


def summarise(
    model: NamedModel, measured: Measured, *, reference: Measured | None, rules: Sequence[Rule]
) -> Summary:
    """Summarise one model; it has differences only if `reference` is another model."""
    answers = measured.answers
    theirs = reference.answers if reference is not None else []
    run = find_run(model.path)
    return Summary(
        name=model.name,
        path=model.path,
        base=adapter_base(model.path),
        run=None if run is None else {key: asdict(run)[key] for key in ("stage", "fingerprint")},
        eos_rate=statistics.share([float(answer.eos) for answer in answers]),
        length=statistics.mean([answer.tokens for answer in answers]),
        rules=_rule_estimates(answers, rules),
        rule_gains=_rule_gains(answers, theirs, rules),
        reward=_reward(answers),
        reward_gain=_compared_rewards(answers, theirs)[0],
        win_rate=_compared_rewards(answers, theirs)[1],
        kl=statistics.mean(measured.kls) if measured.kls else None,
        kl_per_token=(
            statistics.ratio(measured.kls, measured.sampled_lengths) if measured.kls else None
        ),
        kl_note=measured.kl_note,
    )


def _rule_estimates(answers: Sequence[Answer], rules: Sequence[Rule]) -> dict[str, Estimate]:
    found = {}
    for rule in rules:
        scores = [s for a in answers if (s := a.scores[rule.name]) is not None]
        if scores:
            found[rule.name] = (statistics.share if rule.is_share else statistics.mean)(scores)
    return found


def _rule_gains(
    answers: Sequence[Answer], theirs: Sequence[Answer], rules: Sequence[Rule]
) -> dict[str, Estimate]:
    """Mean differences over the prompts to whose two answers the rule applies."""
    found: dict[str, Estimate] = {}
    if not theirs:
        return found
    for rule in rules:
        pairs = [
            (ours, other)
            for a, b in zip(answers, theirs, strict=True)
            if (ours := a.scores[rule.name]) is not None
            and (other := b.scores[rule.name]) is not None
        ]
        if pairs:
            found[rule.name] = statistics.paired_difference(*map(list, zip(*pairs, strict=True)))
    return found


def _reward(answers: Sequence[Answer]) -> Estimate | None:
    rewards = [answer.reward for answer in answers if answer.reward is not None]
    return statistics.mean(rewards) if rewards else None


def _compared_rewards(
    answers: Sequence[Answer], theirs: Sequence[Answer]
) -> tuple[Estimate | None, Estimate | None]:
    """Mean difference of the rewards, and win rate; a reward model scores all answers or none."""
    ours = [answer.reward for answer in answers if answer.reward is not None]
    others = [answer.reward for answer in theirs if answer.reward is not None]
    if not ours or not others:
        return None, None
    differences = [a - b for a, b in zip(ours, others, strict=True)]
    return statistics.mean(differences), statistics.win_rate(ours, others)
