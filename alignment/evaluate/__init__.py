"""Evaluation of models on held-out prompts: rules, rewards, KL, lengths, each with an interval."""

from collections.abc import Sequence
from pathlib import Path

from alignment.evaluate.plan import Options, make_plan
from alignment.evaluate.records import (
    Answer,
    AnswerRow,
    Estimate,
    Evaluation,
    NamedModel,
    Rule,
    Summary,
    load_evaluation,
    save_evaluation,
)

__all__ = [
    "Answer",
    "AnswerRow",
    "Estimate",
    "Evaluation",
    "NamedModel",
    "Options",
    "Rule",
    "Summary",
    "evaluate",
    "load_evaluation",
    "save_evaluation",
]


def evaluate(
    models: Sequence[NamedModel],
    *,
    prompts: Path,
    output_dir: Path,
    rules: Sequence[str] = (),
    reward_model: Path | str | None = None,
    reference: str | None = None,
    options: Options | None = None,
) -> Evaluation:
    """Let every model answer held-out prompts, measure the answers, write `eval.json` and more.

    Args:
        models: Whole models or LoRA adapters, each with the name to show.
        prompts: A file of rows with `prompt`; other columns are handed to the rules.
        output_dir: Gets `eval.json` and `answers.jsonl`.
        rules: `module:function`, `file.py:function` or `name=module:function`; see `rules.py`.
        reward_model: Scores the answers, and with `reference` gives the win rate.
        reference: Name of the model to compare the others with: KL, win rate, differences.
        options: How answers are made; greedy by default.

    Returns:
        What was written.

    Raises:
        ConfigError: A model, rule, option or the output folder cannot be used.
        DataError: The prompts cannot be used. Nearly all of both come before torch is imported.
    """
    plan = make_plan(
        models,
        prompts=prompts,
        output_dir=output_dir,
        rules=rules,
        reward_model=reward_model,
        reference=reference,
        options=options or Options(),
    )
    from alignment.evaluate.measure import measure  # torch: after all that a user can get wrong

    evaluation = measure(plan)
    save_evaluation(evaluation, output_dir)
    return evaluation
