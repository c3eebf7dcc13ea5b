"""Help for a stage: the most used keys, or every key of the schema."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from alignment.registry import Stage

#: Texts in ``align <stage> --help`` for keys that several stages have; a stage explains its own
#: keys. ``--help-all`` prints the texts of the dataclasses.
ESSENTIALS = {
    "model_name_or_path": "model folder, adapter folder or hub name to start from",
    "train_data": "files, folders or hub names to train on",
    "eval_data": "the same, to evaluate on",
    "output_dir": "folder for the result; an existing run needs --resume or --overwrite",
    "learning_rate": "peak learning rate",
    "num_train_epochs": "passes over the data",
    "max_steps": "optimizer steps; overrides num_train_epochs",
    "per_device_train_batch_size": "rows in a batch of one process",
    "gradient_accumulation_steps": "batches per optimizer step",
    "max_length": "maximum number of tokens in a row",
    "packing": "pack several rows into each block of max_length tokens",
    "beta": "weight of the KL penalty to the reference",
    "as_chat": "wrap strings as chat messages",
    "use_peft": "train a LoRA adapter instead of the whole model",
    "lora_r": "rank of the adapter",
    "lora_alpha": "scale of the adapter",
    "logging_steps": "steps between two lines of metrics.jsonl",
    "save_steps": "steps between two checkpoints",
    "report_to": "wandb, tensorboard, trackio or none",
    "seed": "random seed",
    "resume": "continue from the newest checkpoint in output_dir",
    "overwrite": "start again; the run in output_dir is kept until this one is finished",
}

_USAGE = """\
Usage: align {name} [RECIPE.yaml ...] [--key value ...]

  {summary}.

  Recipes are read in order, later ones override earlier ones, flags override recipes.
"""


def print_help(stage: Stage, *, everything: bool) -> None:
    """Print the usage of a stage with its essential keys, or with every key."""
    click.echo(_USAGE.format(name=stage.name, summary=stage.summary))
    if everything:
        _print_schema(stage.name)
        return
    texts = {**ESSENTIALS, **stage.help}
    for key in stage.keys:
        click.echo(f"  --{key:<30} {texts[key]}")
    click.echo(
        f"\n  --{'dry-run':<30} print every key that differs from its default, with its source"
    )
    click.echo(f"  --{'nproc N':<30} run in N processes (accelerate launch)")
    click.echo(
        f"  --{'accelerate CONFIG':<30} run under an accelerate config: a file, or one of TRL's"
    )
    click.echo(f"  --{'help-all':<30} every key that this stage takes")


def _print_schema(name: str) -> None:
    from alignment.settings.schema import schema_of

    group = ""
    for key in schema_of(name).values():
        if key.group != group:
            group = key.group
            click.echo(f"\n{group}:")
        kind = " | ".join((key.choices and map(str, key.choices)) or key.types)
        kind = f"list of {kind}" if key.many else kind
        click.echo(f"  --{key.name}  ({textwrap.shorten(kind, 60)}; default: {key.default})")
        if key.help:
            click.echo(
                textwrap.fill(key.help, 96, initial_indent="      ", subsequent_indent="      ")
            )
