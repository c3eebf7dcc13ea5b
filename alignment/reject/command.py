"""The command line of `align data reject`; it imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignment.errors import AlignError
from alignment.processes import is_main
from data_tools.options import read_options

if TYPE_CHECKING:
    from alignment.reject.output import Account

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("prompts", nargs=-1, required=True, type=FILE)
@click.option("--model", required=True, metavar="RUN", help="An sft run, or any model.")
@click.option("-o", "--output", type=FILE, required=True, help="The JSON lines to write.")
@click.option("--max-new-tokens", type=int, default=512, show_default=True)
@click.option("--batch-size", type=int, help="Answers per batch.  [default: 16; vLLM: 512]")
@click.option("--temperature", type=float, help="0 is greedy.  [default: 0; several samples: 1]")
@click.option("--num-samples", type=int, default=1, show_default=True, help="Answers per prompt.")
@click.option("--reward-model", metavar="RUN", help="Picks the best and the worst sample.")
@click.option("--reward-accuracy-gate", type=float, default=0.55, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--limit", type=int, help="Use only the first rows.")
@read_options
@click.option("--as-chat/--plain", default=None, help="Wrap string prompts as chat messages.")
@click.option("--keep-equal", is_flag=True, help="Keep and mark pairs with two equal answers.")
@click.option("--vllm", is_flag=True, help="Generate with vLLM.")
@click.option("--overwrite", is_flag=True, help="Replace the output and start again.")
@click.option("--nproc", type=click.IntRange(1), help="Number of processes, one per GPU.")
@click.option(
    "--accelerate",
    metavar="CONFIG",
    help="Start the processes that an accelerate config describes.",
)
def reject(
    prompts: tuple[Path, ...],
    model: str,
    output: Path,
    reward_model: str | None,
    nproc: int | None,
    accelerate: str | None,
    **how: Any,
) -> None:
    """Generate rejected answers for PROMPTS that have a chosen answer, with an sft run.

    With --num-samples and --reward-model, PROMPTS need no answers: the best and the worst sample
    become the pair. To continue an interrupted run, give the same command again.
    """
    if (nproc or accelerate) and "RANK" not in os.environ:
        from alignment.pipeline.launch import relaunch

        relaunch("data", sys.argv[sys.argv.index("data") + 1 :])
    from alignment.reject.plan import Options
    from alignment.reject.run import reject

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        account = reject(
            prompts, model=model, output=output, reward_model=reward_model, options=Options(**how)
        )
    except AlignError:
        if is_main():
            raise
        sys.exit(2)  # the main process prints the error
    if account is not None:
        for line in _report_lines(account, output):
            click.echo(line)


def _report_lines(account: Account, output: Path) -> list[str]:
    from data_tools.convert.output import dropped_path

    lines = [f"{output}"]
    if not account.new:
        lines = [f"{output}: finished already; nothing was changed"]
    if account.resumed:
        lines.append(f"  resumed  {account.resumed:>9,}  rows were done before")
    lines += [f"  encoding {name} of {file}" for file, name in account.encodings.items()]
    lines += [f"  not used {n:>9,}  {name}" for name, n in sorted(account.unused.items())]
    lines += [f"  marked   {n:>9,}  {name}" for name, n in sorted(account.marked.items())]
    lines += [f"  dropped  {n:>9,}  {name}" for name, n in sorted(account.dropped.items())]
    lines.append(f"  {account.rows_in:,} rows in, {account.rows_out:,} pairs out")
    if account.dropped:
        lines.append(f"  every dropped row is in {dropped_path(output)}")
    return lines
