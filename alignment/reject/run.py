"""One run of `align data reject` from its arguments to the written pairs."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from alignment.processes import is_main
from alignment.reject.output import Account
from alignment.reject.plan import Options, make_plan
from alignment.runs import locked


def reject(
    prompts: Sequence[Path],
    *,
    model: str,
    output: Path,
    reward_model: str | None = None,
    options: Options | None = None,
) -> Account | None:
    """Answer the prompts by a model and write preference pairs.

    The model's answer becomes the rejected side of the data's own answer; with a reward model, the
    best and the worst of several samples become the two sides. Rows of which no pair can be made
    go to `*.dropped.jsonl`; how all was made stands in `<output>.meta.json`.

    Args:
        prompts: Files or folders of any format that gives prompts with answers; with a reward
            model also prompts alone.
        model: A whole model or a LoRA adapter, by folder or hub name.
        output: The JSON lines to write; what is finished waits in `<output>.parts` until all is.
        reward_model: Scores the samples; needs `options.num_samples` of two or more.
        options: How the answers are made.

    Returns:
        What became of the rows, from the main process only.

    Raises:
        ConfigError: An option, a model or the output cannot be used, or the parts that lie there
            were made with other settings.
        DataError: The rows cannot be used. Nearly all of both come before a model is loaded.
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
        if plan.former is not None:
            if not is_main():
                return None
            plan.parts.delete()  # a kill may have come between the last file and this
            return plan.former
        from alignment.reject.work import work  # torch: after all that a user can get wrong

        return work(plan)
