"""Help for a stage: the keys that people use, from a table; every key, from the schema."""

import textwrap

import click

from alignment.registry import Stage

#: What ``align <stage> --help`` says of a key. ``--help-all`` prints the dataclasses' own words.
ESSENTIALS = {
    "model_name_or_path": "model folder, adapter folder or hub name to start from",
    "reward_model": "run of `align rm`, folder, hub name, module:function or URL that scores",
    "train_data": "files, folders or hub names to train on",
    "eval_data": "the same, held out",
    "output_dir": "folder for the result; a used one asks for --resume or --overwrite",
    "learning_rate": "peak learning rate",
    "num_train_epochs": "passes over the data",
    "max_steps": "optimizer steps; overrides num_train_epochs",
    "per_device_train_batch_size": "rows a process takes at once",
    "gradient_accumulation_steps": "batches before an optimizer step",
    "max_length": "tokens after which a row is cut",
    "packing": "fill blocks of max_length with several rows",
    "assistant_only_loss": "of messages, only the assistant's tokens carry loss",
    "center_rewards_coefficient": "pull the mean reward to zero",
    "beta": "strength of the pull to the reference (KL)",
    "loss_type": "DPO loss or losses",
    "num_ppo_epochs": "passes over each rollout",
    "max_completion_length": "tokens of an answer at most",
    "temperature": "of the sampled answers",
    "as_chat": "wrap strings as chat messages",
    "use_peft": "train a LoRA adapter in place of the whole model",
    "lora_r": "rank of the adapter",
    "lora_alpha": "scale of the adapter",
    "logging_steps": "steps between two lines of metrics.jsonl",
    "save_steps": "steps between two checkpoints",
    "report_to": "wandb, tensorboard, trackio or none",
    "seed": "of everything random",
    "resume": "go on from the newest checkpoint in output_dir",
    "overwrite": "start anew; the run in output_dir is kept aside until that is finished",
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
    for key in stage.keys:
        click.echo(f"  --{key:<30} {ESSENTIALS[key]}")
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
