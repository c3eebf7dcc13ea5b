"""Evaluate models on held-out prompts: rules, rewards, KL and lengths, with intervals."""

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
    prompts: Path | str,
    output_dir: Path,
    rules: Sequence[str] = (),
    reward_model: Path | str | None = None,
    reference: str | None = None,
    options: Options | None = None,
) -> Evaluation:
    """Answer held-out prompts with every model, measure the answers and write the results.

    Args:
        models: Full models or LoRA adapters, each with the name to show.
        prompts: A file, a folder or a listed data set in any format; its columns are passed to the
            rules.
        output_dir: The folder for `eval.json` and `answers.jsonl`.
        rules: `module:function`, `file.py:function` or `name=module:function`; see `rules.py`.
        reward_model: Scores the answers, and with `reference` gives the win rate.
        reference: Name of the model that the others are compared with: KL, win rate, differences.
        options: How answers are generated. Default: greedily.

    Returns:
        The evaluation that was written.

    Raises:
        ConfigError: A model, rule, option or the output folder cannot be used.
        DataError: The prompts cannot be used. Nearly all errors are found before torch is imported.
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
    from alignment.models.imports import import_heavy

    import_heavy("alignment.evaluate.measure")
    from alignment.evaluate.measure import measure  # imports torch, so only after all checks

    evaluation = measure(plan)
    save_evaluation(evaluation, output_dir)
    return evaluation
