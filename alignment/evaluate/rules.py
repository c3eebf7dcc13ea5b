"""Rules that judge answers: any TRL reward function, named like a reward of `align ppo`.

A rule is called as by TRL's trainers: `rule(prompts=..., completions=..., completion_ids=...,
**columns) -> list[float | None]`. Prompts and completions are strings or lists of messages. So the
same function can be a reward of `align ppo` and a rule here.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.errors import ConfigError
from alignment.settings.reward_spec import RewardKind, load_function, parse_reward

_GIVEN = ("prompts", "completions", "completion_ids")


@dataclass(frozen=True)
class LoadedRule:
    """A loaded rule; tables show `name`, which is the function's name unless one is given."""

    name: str
    spec: str
    function: Callable[..., Any]


def load_rules(specs: Sequence[str]) -> list[LoadedRule]:
    """Import each `module:function`, `path/to/file.py:function` or `name=module:function`.

    Raises:
        ConfigError: A spec is malformed, nothing callable has that name, or two share a name.
    """
    rules: dict[str, LoadedRule] = {}
    for spec in specs:
        name, equals, target = spec.rpartition("=")
        rule = LoadedRule(name if equals else target.rpartition(":")[2], target, _load(target))
        if rule.name in rules:
            raise ConfigError(
                f"rules {rules[rule.name].spec!r} and {target!r} are both called {rule.name!r}",
                f"Give one a name: other_name={target}",
            )
        rules[rule.name] = rule
    return list(rules.values())


def check_rule(rule: LoadedRule, prompts: Sequence[Any], columns: dict[str, list[Any]]) -> None:
    """Call `rule` on empty answers to the first prompts, so that mistakes show early.

    Raises:
        ConfigError: It needs a column that is missing, or returns what `apply_rule` rejects.
    """
    missing = [name for name in _required(rule.function) if name not in (*_GIVEN, *columns)]
    if missing:
        raise ConfigError(
            f"rule {rule.spec}: the prompt rows have no column {missing[0]!r}",
            f"They have: {', '.join(sorted(columns)) or 'only prompt'}.",
        )
    few = prompts[:2]
    empty = ["" if isinstance(p, str) else [{"role": "assistant", "content": ""}] for p in few]
    apply_rule(rule, few, empty, columns={key: value[:2] for key, value in columns.items()})


def apply_rule(
    rule: LoadedRule,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    columns: dict[str, list[Any]],
    completion_ids: Sequence[list[int]] | None = None,
) -> list[float | None]:
    """Score every completion; None or NaN means that the rule does not apply to that row.

    Raises:
        ConfigError: The rule did not return a list with one finite number (or None) per completion.
    """
    ids = completion_ids if completion_ids is not None else [[] for _ in prompts]
    given = {
        **columns,
        "prompts": list(prompts),
        "completions": list(completions),
        "completion_ids": list(ids),
    }
    scores = rule.function(**_accepted(rule.function, given))
    if not isinstance(scores, Sequence) or len(scores) != len(prompts):
        count = len(scores) if isinstance(scores, Sequence) else type(scores).__name__
        raise ConfigError(
            f"rule {rule.spec}: returned {count} for {len(prompts)} completions",
            "Return a list with one float (or None) for each completion.",
        )
    return [_number(rule, score) for score in scores]


def _number(rule: LoadedRule, score: Any) -> float | None:
    try:
        number = math.nan if score is None else float(score)
    except (TypeError, ValueError):
        raise ConfigError(
            f"rule {rule.spec}: returned {score!r} as a score",
            "Return a list with one float (or None) for each completion.",
        ) from None
    if math.isinf(number):
        raise ConfigError(f"rule {rule.spec}: returned an infinite score", "Return finite scores.")
    return None if math.isnan(number) else number


def _load(spec: str) -> Callable[..., Any]:
    reward = parse_reward(spec, role="rule")
    if reward.kind is not RewardKind.FUNCTION:
        raise ConfigError(
            f"rule: {spec}: {reward.kind}, but a rule must be a function",
            "name module:function, or file.py:function",
        )
    return load_function(reward, role="rule")


def _accepted(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that `function` accepts; all of them if it has `**columns`."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}


def _required(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in kinds and parameter.default is parameter.empty
    ]
