"""The plan of an evaluation: all arguments and files are checked before heavy imports."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click

from alignment.errors import ConfigError, DataError
from alignment.evaluate.records import EVALUATION_FILE, NamedModel, Prompt
from alignment.evaluate.rules import LoadedRule, check_rule, load_rules
from alignment.models.folders import check_causal_model, check_reward_model, has_chat_template
from data_tools.shapes import Served, Sources, named_sources


@dataclass(frozen=True, kw_only=True)
class Options:
    """How answers are generated.

    Attributes:
        max_new_tokens: Longer answers are cut at this length and have no EOS.
        batch_size: Rows generated, scored or compared at a time.
        temperature: 0 is greedy; KL is always measured on samples at temperature 1.
        seed: Seed for sampling.
        limit: Use only the first prompts.
        format: The format of the prompts. Default: detected for each row.
        columns: Which columns hold which parts. Default: those that the formats know.
        encoding: The encoding of text files. Default: detected.
        as_chat: Wrap string prompts as a user message with the chat template. Default: true if
            every model's tokenizer has a chat template, as in the stages.
        overwrite: Replace an evaluation in the output folder.
    """

    max_new_tokens: int = 128
    batch_size: int = 16
    temperature: float = 0.0
    seed: int = 0
    limit: int | None = None
    format: str | None = None
    columns: str | None = None
    encoding: str | None = None
    as_chat: bool | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Plan:
    """A checked evaluation: rows are read, rules are loaded, and the models exist.

    `prompts` are in the format that models and rules get; `columns` holds the other columns.
    """

    models: list[NamedModel]
    reference: str | None
    rules: list[LoadedRule]
    reward_model: str | None
    prompts: list[Prompt]
    columns: dict[str, list[Any]]
    source: dict[str, Any]
    options: Options


def make_plan(
    models: Sequence[NamedModel],
    *,
    prompts: Path | str,
    output_dir: Path,
    rules: Sequence[str],
    reward_model: Path | str | None,
    reference: str | None,
    options: Options,
) -> Plan:
    """Check every argument against the files.

    Raises:
        ConfigError: An option, a model, a rule or the output folder cannot be used.
        DataError: The prompts cannot be used.
    """
    _check_options(options)
    _check_output(output_dir, overwrite=options.overwrite)
    _check_names(models, reference)
    for model in models:
        check_causal_model(model.path, role=f"model {model.name!r}")
    if reward_model is not None:
        check_reward_model(str(reward_model))
    loaded = load_rules(rules)
    sources = named_sources([prompts], options.format, options.columns, options.encoding)
    rows = read_prompts(sources, options.limit)
    columns = columns_of(rows)
    texts = _as_asked([row.record.prompt for row in rows], models, options.as_chat)
    for rule in loaded:
        check_rule(rule, texts, columns)
    return Plan(
        models=list(models),
        reference=reference,
        rules=loaded,
        reward_model=None if reward_model is None else str(reward_model),
        prompts=texts,
        columns=columns,
        source={"path": str(prompts), "sha256": sources.digest(), "rows": len(rows)},
        options=options,
    )


def _as_asked(
    prompts: list[Prompt], models: Sequence[NamedModel], as_chat: bool | None
) -> list[Prompt]:
    """Prompts in the format that every model and rule gets, wrapped as in the stages."""
    if as_chat is None:
        as_chat = all(has_chat_template(model.path) for model in models)
    if not as_chat:
        return prompts
    return [
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]


def _check_options(options: Options) -> None:
    for key, low in (("max_new_tokens", 1), ("batch_size", 1), ("temperature", 0), ("seed", 0)):
        value = vars(options)[key]
        if value < low:
            raise ConfigError(f"{key}: {value} is below {low}")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit: {options.limit} is below 1")


def _check_output(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir: {folder}: is a file", "Name a folder.")
    if (folder / EVALUATION_FILE).exists() and not overwrite:
        raise ConfigError(
            f"output_dir: {folder}: holds an evaluation",
            "Replace it with --overwrite, or choose another output_dir.",
        )


def _check_names(models: Sequence[NamedModel], reference: str | None) -> None:
    names = [model.name for model in models]
    if not names:
        raise ConfigError("models: none is given", "Give one or more name=FOLDER.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"models: two are called {twice!r}", "Give each a name: name=FOLDER")
    if reference is not None and reference not in names:
        raise ConfigError(
            f"reference: {reference!r} is none of the models", f"They are: {', '.join(names)}."
        )


def read_prompts(sources: Sources, limit: int | None) -> list[Served]:
    """Return the first rows, each with its prompt; prints encodings that are not UTF-8.

    Raises:
        DataError: A row has no prompt.
    """
    for file, encoding in sources.encodings().items():
        click.echo(f"encoding: {encoding} of {file}", err=True)
    return list(islice(sources.served("prompt"), limit))


def columns_of(rows: Sequence[Served]) -> dict[str, list[Any]]:
    """The columns of the rows other than `prompt`.

    Raises:
        DataError: The rows do not all have the same keys.
    """
    keys = set(rows[0].row.data) - {"prompt"}
    for _, row, _ in rows:
        if (other := row.data.keys() - {"prompt"}) != keys:
            key = min(keys ^ other)
            raise DataError(
                f"{row.where}: only some rows have the column {key!r}",
                "Give every row the same keys (null for no value).",
            )
    return {key: [row.data[key] for _, row, _ in rows] for key in sorted(keys)}
