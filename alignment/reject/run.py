"""Run `align data reject`, from its arguments to the written pairs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.processes import is_main
from alignment.reject.plan import Options, make_plan
from alignment.runs import locked

if TYPE_CHECKING:
    from alignment.reject.output import Account


def reject(
    prompts: Sequence[Path],
    *,
    model: str,
    output: Path,
    reward_model: str | None = None,
    options: Options | None = None,
) -> Account | None:
    """Answer the prompts with a model and write preference pairs.

    The answer in the data is chosen and the model's answer is rejected. With a reward model, the
    best and the worst of several samples become the pair. Rows without a pair are written to
    `*.dropped.jsonl`, and `<output>.meta.json` records how the pairs were made.

    Args:
        prompts: Files or folders in any format that has prompts and answers; with a reward model,
            prompts without answers too.
        model: A full model or a LoRA adapter, by folder or hub name.
        output: The JSON lines to write; finished batches are kept in `<output>.parts` until then.
        reward_model: Scores the samples; needs `options.num_samples` of two or more.
        options: How the answers are generated.

    Returns:
        The counts of rows in the main process; None in the others.

    Raises:
        ConfigError: An option, a model or the output cannot be used, or existing parts were made
            with other settings.
        DataError: The rows cannot be used. Nearly all errors are found before a model is loaded.
    """
    with ExitStack() as stack:
        if is_main():
            stack.enter_context(locked(output))
        plan = make_plan(
            prompts,
            model=model,
            output=output,
            reward_model=reward_model,
            options=options or Options(),
        )
        if plan.finished is not None:
            if not is_main():
                return None
            plan.parts.delete()  # an earlier run may have been killed just before this step
            return plan.finished
        from alignment.models.imports import import_heavy

        import_heavy("alignment.reject.work")
        from alignment.reject.work import work  # imports torch, so only after all checks

        return work(plan)
