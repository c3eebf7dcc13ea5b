"""The rows of a stage: prepared once, counted, and checked before a model is loaded.

Nothing here imports torch, so that a mistake in the data is reported within a second.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from alignment.data.arrow import FATE, GROUP, LENGTH, read_column
from alignment.data.columns import LEFT_OUT, Limits
from alignment.data.counts import Counts, count_rows, describe, describe_loss, refuse, warnings
from alignment.data.prepare import Prepared, Request, described_drops, described_unused, prepare
from alignment.data.sources import check_sources, data_paths, describe_mix, mixed, weigh
from alignment.errors import ConfigError
from alignment.models.chat_template import (
    TokenizerChanges,
    light_tokenizer,
    tokenizer_changes,
)
from alignment.models.folders import load_config, weights_place
from alignment.models.limits import embeddings_in, positions_in
from alignment.runs import MODEL_CONFIG, Source
from data_tools.rendering import ModelTokenizer, Renderer

if TYPE_CHECKING:
    from alignment.registry import Stage

Numbers = npt.NDArray[np.int64]

_NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class Start:
    """What rows are prepared for: the model that a stage starts from.

    Attributes:
        tokenizer: Its tokenizer.
        positions: Tokens that it can place; None: not limited, or unknown.
        vocabulary: Its embeddings; None: unknown.
    """

    tokenizer: ModelTokenizer
    positions: int | None
    vocabulary: int | None


@dataclass(frozen=True, slots=True)
class StageRows:
    """The rows of a stage by role, and how they were made.

    Attributes:
        stage: The stage.
        by_role: Prepared rows of `train` and, if there are any, `eval`.
        changes: What becomes of the model's tokenizer.
        request: How the rows were made; its renderer renders anything else alike.
        start: What a stage that starts from this one's result begins with.
    """

    stage: Stage
    by_role: Mapping[str, Prepared]
    changes: TokenizerChanges
    request: Request
    start: Start

    @property
    def renderer(self) -> Renderer:
        """What makes text and tokens of a row, here and in the trainer."""
        return self.request.renderer

    def inputs(self) -> dict[str, list[Source]]:
        """The data by role, with digests and counts, as the record of a run has it."""
        return {role: list(prepared.sources) for role, prepared in self.by_role.items()}


def prepare_stage(stage: Stage, values: Mapping[str, Any], start: Start | None = None) -> StageRows:
    """Prepare the rows of a stage, or find them in the cache.

    Args:
        stage: The stage.
        values: Its settings.
        start: What an earlier stage of a pipeline will hand on; None: read from the model.

    Raises:
        ConfigError: no data is named, or the tokenizer cannot be used.
        DataError: a file or row cannot be used.
    """
    paths = data_paths(values)
    check_sources(values)  # a name that is wrong is reported before the tokenizer is read
    start = start or read_start(values)
    changes = tokenizer_changes(stage, values, start.tokenizer)
    _check_added(values, changes)
    request = request_of(stage, values, start, changes)
    prepared = {role: prepare(given, request) for role, given in paths.items()}
    for role, one in prepared.items():
        prepared[role] = replace(one, sources=tuple(weigh(one.sources, values, role)))
    vocabulary = None if changes.added else start.vocabulary  # TRL resizes the embeddings
    after = replace(start, tokenizer=request.renderer.tokenizer, vocabulary=vocabulary)
    return StageRows(stage, prepared, changes, request, after)


def request_of(
    stage: Stage, values: Mapping[str, Any], start: Start, changes: TokenizerChanges
) -> Request:
    """What the settings of a stage ask of its rows, once the tokenizer is changed.

    Raises:
        ConfigError: The chat template does not read a variable that was given.
    """
    variables = values.get("chat_template_kwargs") or {}
    renderer = Renderer(
        changes.on(start.tokenizer),
        as_chat=values["as_chat"],
        loss_on=values["loss_on"],
        variables=variables,
    )
    unread = renderer.template.ignored(variables) if renderer.template else list(variables)
    if unread:
        raise ConfigError(
            f"chat_template_kwargs: the chat template does not read {', '.join(unread)}",
            "leave it out, or check its spelling in the template",
        )
    return Request(
        stage=stage,
        renderer=renderer,
        limits=_limits(stage, values, start, adds_tokens=bool(changes.added)),
        format=values["data_format"],
        columns=values["columns"],
        drops_bad_rows=values["on_bad_row"] == "drop",
        encoding=values["data_encoding"],
    )


def _check_added(values: Mapping[str, Any], changes: TokenizerChanges) -> None:
    """See that the embeddings of added tokens can be trained.

    Raises:
        ConfigError: LoRA is to train them, and input and output embeddings are one matrix.
    """
    if not (changes.added and values["use_peft"]):
        return
    config = load_config(
        str(values["model_name_or_path"]),
        revision=values["model_revision"],
        trust_remote_code=values["trust_remote_code"],
    )
    if config.get_text_config().tie_word_embeddings:
        raise ConfigError(
            f"chat_template_path: {values['chat_template_path']}: its tokens are new to the model, "
            "and TRL cannot train them with LoRA if input and output embeddings are tied",
            "train without use_peft, or take a template whose tokens the model has",
        )


def read_start(values: Mapping[str, Any]) -> Start:
    """Read the tokenizer and the sizes of the model that a stage starts from.

    Raises:
        ConfigError: there is no tokenizer or config.
    """
    tokenizer = light_tokenizer(values)
    config = _config(values)
    text = config.get("text_config") or config
    path, tokens = str(values["model_name_or_path"]), tokenizer.encoder.get_vocab_size()
    return Start(tokenizer, positions_in(text), embeddings_in(text, path, tokens=tokens))


def _config(values: Mapping[str, Any]) -> dict[str, Any]:
    path, revision = str(values["model_name_or_path"]), values["model_revision"]
    file = Path(weights_place(path, revision).path) / MODEL_CONFIG
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    trusts = values["trust_remote_code"]
    return dict(load_config(path, revision=revision, trust_remote_code=trusts).to_dict())


def _limits(stage: Stage, values: Mapping[str, Any], start: Start, *, adds_tokens: bool) -> Limits:
    vocabulary = None if adds_tokens else start.vocabulary  # TRL resizes the embeddings then
    if stage.samples:
        room = values["max_completion_length"]
        # the response is written into the same positions
        tokens = None if start.positions is None else start.positions - room
        return Limits(tokens, vocabulary=vocabulary)
    packs = bool(values.get("packing"))
    return Limits(
        values["max_length"],
        keeps_end=values.get("truncation_mode") == "keep_end" and not packs,
        splits=packs and values["packing_strategy"] != "bfd",
        vocabulary=vocabulary,
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which prepared rows are used: indices of all that were chosen, and of those that are kept."""

    chosen: Numbers
    kept: Numbers


def select_rows(rows: StageRows, values: Mapping[str, Any]) -> dict[str, Selection]:
    """The rows for training and, if there are any, the held-out ones (`train`, `eval`).

    Weights draw rows of each source by seed, then `max_rows` draws from those. `eval_fraction`
    holds rows out by a hash of their prompt, so that no prompt is on both sides.
    """
    train = rows.by_role["train"]
    chosen = mixed(train.sources, values["seed"])
    if values["max_rows"] is not None and values["max_rows"] < len(chosen):
        drawn = random.Random(values["seed"]).sample(range(len(chosen)), values["max_rows"])
        chosen = np.sort(np.asarray(drawn))
    found = {"train": _kept(train, chosen)}
    if "eval" in rows.by_role:
        held_out = rows.by_role["eval"]
        found["eval"] = _kept(held_out, np.arange(held_out.entry.about["rows"]))
    elif values["eval_fraction"] > 0:
        groups = read_column(train.entry.rows, GROUP)[chosen]
        # by prompt, not by row: the same prompt on both sides would flatter the measure
        is_held_out = _shares(groups, values["seed"]) < values["eval_fraction"]
        found["train"] = _kept(train, chosen[~is_held_out])
        if is_held_out.any():
            found["eval"] = _kept(train, chosen[is_held_out])
    return found


def _kept(prepared: Prepared, chosen: Numbers) -> Selection:
    fates = read_column(prepared.entry.rows, FATE)[chosen]
    return Selection(chosen, chosen[(fates & LEFT_OUT) == 0])


def _shares(groups: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each hash, decided by hash and seed (the mixer of SplitMix64)."""
    with np.errstate(over="ignore"):
        # the hash alone would hold out the same prompts with every seed
        mixed = groups + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed.astype(np.float64) / 2.0**64


def check_rows(rows: StageRows, values: Mapping[str, Any]) -> dict[str, Counts]:
    """Print what the trainer will make of the rows; the counts by role, for the run's record.

    Raises:
        DataError: nothing is left to learn from, or a prompt leaves no room for a response.
    """
    for line in _about_data(rows):
        click.echo(line, err=True)
    train = rows.by_role["train"].sources
    for line in describe_mix(train, mixed(train, values["seed"])):
        click.echo(line)
    found = {}
    for role, selection in select_rows(rows, values).items():
        prepared = rows.by_role.get(role, rows.by_role["train"])
        counts = count_rows(
            read_column(prepared.entry.rows, FATE)[selection.chosen],
            read_column(prepared.entry.rows, LENGTH)[selection.chosen],
            limit=rows.request.limits.tokens,
            positions=None if rows.stage.samples else rows.start.positions,
            splits=rows.request.limits.splits,
        )
        name = {"train": "train", "eval": "held out"}[role]
        found[role] = counts
        click.echo(f"{name}: {describe(rows.stage, counts)}")
        if rows.stage.kind != "prompt":
            everything = rows.renderer.loss_on == "all"
            click.echo(
                f"{name}: {describe_loss(prepared.tokens, prepared.learned, everything=everything)}"
            )
        first = counts.first_too_long
        refuse(
            rows.stage,
            name,
            counts,
            values=values,
            positions=rows.start.positions,
            first=prepared.place(selection.chosen[first - 1]) if first else "",
        )
        for line in (
            *warnings(rows.stage, name, counts),
            *_left_out(rows, name, prepared, selection),
        ):
            click.echo(line, err=True)
    return found


def _about_data(rows: StageRows) -> Iterable[str]:
    if rows.changes.note:
        yield rows.changes.note
    for prepared in rows.by_role.values():
        yield from described_drops(prepared)
        yield from described_unused(prepared)


def _left_out(
    rows: StageRows, name: str, prepared: Prepared, selection: Selection
) -> Iterator[str]:
    """Name prompts that are left out since they leave no room for a response."""
    if not rows.stage.samples:
        return
    left_out = np.setdiff1d(selection.chosen, selection.kept)
    lengths = read_column(prepared.entry.rows, LENGTH)
    limit = rows.request.limits.tokens
    for row in left_out[:_NAMED_ROWS]:
        why = f"its prompt has {lengths[row]} tokens, {limit} leave room for a response"
        yield f"dropped: {prepared.place(row)}: {why}"
    if len(left_out):
        yield f"dropped {len(left_out)} of {len(selection.chosen)} {name} prompts: too long"
