"""What a trainer will make of its rows, counted before a model is loaded.

Rows are rendered and tokenised as TRL's trainers do it, in batches; nothing here needs torch. What
each trainer does with a long row differs: pt, sft and dpo cut it at `max_length`, rm leaves it out,
ppo cannot use a prompt that leaves no room for a response.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import click

from alignment.errors import ConfigError, DataError
from alignment.models.folders import prompt_budget
from alignment.processes import is_main
from alignment.runs.record import Run

if TYPE_CHECKING:
    from datasets import Dataset

Ids: TypeAlias = list[int]
Columns: TypeAlias = dict[str, list[Any]]

_BATCH = 512
#: Where a larger share of the rows is over the limit, it is worth a warning.
_MANY = 0.01
#: Rows from which on counting takes long enough to show how far it is.
_LONG_WORK = 20_000


class Fate(NamedTuple):
    """What becomes of one row.

    Attributes:
        length: Tokens of its longest side.
        cut: It loses tokens to the limit.
        too_long: It is left out, being over the limit (rm, ppo).
        equal: Its two sides are the same tokens.
        equal_once_cut: Its two sides differ only past the limit.
        no_loss: No token that carries loss is left of it.
    """

    length: int
    cut: bool = False
    too_long: bool = False
    equal: bool = False
    equal_once_cut: bool = False
    no_loss: bool = False


@dataclass(slots=True)
class Counts:
    """How many rows share each fate; a row may have several.

    Attributes:
        rows: All of them.
        kept: Rows that the trainer trains on.
        learnable: Rows of those that are no equal pair.
        longest: Tokens of the longest side of all.
        limit: `max_length`; for ppo, the tokens that a prompt may have. None: no limit.
        first_too_long: The first row that is left out, from 1, in the order of the file set.
    """

    limit: int | None
    rows: int = 0
    kept: int = 0
    learnable: int = 0
    cut: int = 0
    too_long: int = 0
    equal: int = 0
    equal_once_cut: int = 0
    no_loss: int = 0
    longest: int = 0
    first_too_long: int | None = None

    def add(self, fate: Fate) -> None:
        """Count one more row."""
        self.rows += 1
        kept = not (fate.too_long or fate.no_loss)
        self.kept += kept
        self.learnable += kept and not (fate.equal or fate.equal_once_cut)
        self.cut += fate.cut
        self.too_long += fate.too_long
        self.equal += fate.equal
        self.equal_once_cut += fate.equal_once_cut
        self.no_loss += fate.no_loss
        self.longest = max(self.longest, fate.length)
        if fate.too_long and self.first_too_long is None:
            self.first_too_long = self.rows


#: Tells the fate of each row of a batch.
Judge: TypeAlias = Callable[[Columns], Iterator[Fate]]


def check_data(
    run: Run, train: "Dataset", held_out: "Dataset | None", *, tokenizer: Any, args: Any
) -> None:
    """Count what the trainer will make of the rows, print it, and keep it in the run's record.

    Only the main process does so.

    Args:
        run: Its stage tells how rows are used; gets the counts as `checks`.
        train: Rows as the trainer will be given them.
        held_out: The same, where there are any.
        tokenizer: The policy's.
        args: The trainer's settings.

    Raises:
        DataError: Nothing is left to learn from, or a prompt of ppo leaves no room to answer and
            ``on_bad_row`` is raise.
        ConfigError: The chat template cannot tell the assistant's tokens.
    """
    if not is_main():
        return
    for name, rows in (("train", train), ("held_out", held_out)):
        if rows is None:
            continue
        counts = count_rows(run, rows, tokenizer=tokenizer, args=args)
        run.checks[name] = dataclasses.asdict(counts)
        click.echo(f"{name.replace('_', ' ')}: {describe(run.stage, counts)}")
        _refuse(run, name, counts, args)
        _warn(run.stage, name, counts)


def describe(stage: str, counts: Counts) -> str:
    """One line of the counts that matter to a stage."""
    parts = [f"{counts.rows:,} rows", f"{counts.kept:,} kept"]
    at = "" if counts.limit is None else f" {counts.limit:,} tokens"
    if stage in ("rm", "ppo"):
        parts.append(f"{counts.too_long:,} too long" + at.replace(" ", " for ", 1))
    else:
        parts.append(f"{counts.cut:,} cut" + at.replace(" ", " at ", 1))
    if stage in ("rm", "dpo"):
        parts.append(f"{counts.equal:,} equal pairs")
    if stage == "dpo":
        parts.append(f"{counts.equal_once_cut:,} equal once cut")
    if stage in ("pt", "sft", "dpo"):
        parts.append(f"{counts.no_loss:,} no-loss rows")
    return ", ".join(parts)


def count_rows(run: Run, rows: "Dataset", *, tokenizer: Any, args: Any) -> Counts:
    """Count the fates of rows in the trainer of a stage.

    Raises:
        DataError: A row has no token of the assistant, and only those carry loss.
        ConfigError: The chat template cannot tell them.
    """
    from rich.console import Console
    from rich.progress import track

    limit, judge = _judge(run, tokenizer, args)
    counts = Counts(limit)
    starts = track(
        range(0, len(rows), _BATCH),
        description="checking rows",
        console=Console(stderr=True),
        transient=True,
        disable=len(rows) < _LONG_WORK,
    )
    for start in starts:
        for fate in judge(rows[start : start + _BATCH]):
            counts.add(fate)
    return counts


def _refuse(run: Run, name: str, counts: Counts, args: Any) -> None:
    """Stop where training could only waste time."""
    stage = run.stage
    drops = run.settings.get("on_bad_row", {"value": "raise"})["value"] == "drop"
    if stage == "ppo" and counts.too_long and not drops:
        raise DataError(
            f"{name} data: {counts.too_long} of {counts.rows} prompts leave no room for "
            f"{args.max_completion_length} new tokens, the first of them row "
            f"{counts.first_too_long}; the longest has {counts.longest} tokens, "
            f"{counts.limit} fit",
            "leave such prompts out: --on_bad_row drop, or lower max_completion_length",
        )
    learns_answers = stage == "dpo" and "sft" in args.loss_type
    if counts.kept if learns_answers else counts.learnable:
        return
    raise DataError(
        f"{name} data: nothing is left to learn: {describe(stage, counts)}",
        "chosen and rejected must differ; see `align data validate`"
        if counts.equal == counts.rows
        else f"{'lower max_completion_length' if stage == 'ppo' else 'raise max_length'}: "
        f"the longest row has {counts.longest} tokens",
    )


def _warn(stage: str, name: str, counts: Counts) -> None:
    over = counts.cut + counts.too_long
    if over > _MANY * counts.rows:
        what = "left out" if counts.too_long else "cut"
        limit = f"{counts.limit} prompt tokens" if stage == "ppo" else f"max_length {counts.limit}"
        click.echo(
            f"warning: {over / counts.rows:.1%} of the {name.replace('_', ' ')} rows are {what} "
            f"at {limit}; the longest has {counts.longest} tokens",
            err=True,
        )


def _judge(run: Run, tokenizer: Any, args: Any) -> tuple[int | None, Judge]:
    """The limit of a stage, and what tells the fate of its rows."""
    match run.stage:
        case "ppo":
            encode, limit = _Encoder(tokenizer), prompt_budget(run, args)
            template = args.chat_template_kwargs or {}
            return limit, lambda batch: _prompts(encode.opened(batch, **template), limit)
        case "rm":
            encode, limit = _Encoder(tokenizer), args.max_length
            return limit, lambda batch: _whole_pairs(batch, encode, limit)
        case "dpo":
            encode, limit = _Encoder(tokenizer), args.max_length
            return limit, lambda batch: _cut_pairs(batch, encode, _window(args, limit))
        case _:
            encode = _Encoder(tokenizer, _loss_template(tokenizer, args))
            limit = None if _splits_long_rows(args) else args.max_length
            return limit, lambda batch: _supervised(batch, encode, args, limit)


class _Encoder:
    """Token ids of texts and conversations, as TRL asks a tokenizer for them."""

    def __init__(self, tokenizer: Any, chat_template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = {} if chat_template is None else {"chat_template": chat_template}
        self.eos = tokenizer.eos_token or ""

    def __call__(self, rows: list[Any], **words: Any) -> Any:
        """Encode texts as they are, conversations by the chat template with these words."""
        if isinstance(rows[0], str):
            return self.tokenizer(text=rows, verbose=False)
        return self.tokenizer.apply_chat_template(
            rows,
            tokenize=True,
            return_dict=True,
            tokenizer_kwargs={"verbose": False},
            **self.template,
            **words,
        )

    def ended(self, text: Any) -> Any:
        """A text with the EOS that TRL puts behind it; a conversation as it is."""
        if not isinstance(text, str) or text.endswith(self.eos):
            return text
        return text + self.eos

    def joined(self, batch: Columns, side: str) -> list[Any]:
        """Each prompt with one side of its row behind it."""
        sides = zip(batch["prompt"], batch[side], strict=True)
        return [prompt + self.ended(answer) for prompt, answer in sides]

    def opened(self, batch: Columns, **words: Any) -> list[Ids]:
        """Ids of each prompt alone, up to where the answer begins."""
        ids: list[Ids] = self(batch["prompt"], add_generation_prompt=True, **words)["input_ids"]
        return ids

    def begins(self, batch: Columns, sides: list[list[Ids]], limit: int | None) -> list[int]:
        """Where the answers of rows over the limit begin; 0 for the rest, where no cut is made."""
        found = [0] * len(sides[0])
        over = [i for i, row in enumerate(zip(*sides, strict=True)) if _over(row, limit)]
        if over:
            opened = self.opened({"prompt": [batch["prompt"][i] for i in over]})
            for i, ids in zip(over, opened, strict=True):
                found[i] = min(_common(ids, side[i]) for side in sides)
        return found


def _supervised(batch: Columns, encode: _Encoder, args: Any, limit: int | None) -> Iterator[Fate]:
    """Rows of pt and sft: the completion, the assistant's tokens or all tokens carry loss."""
    if "completion" in batch:
        rows = encode.joined(batch, "completion")
    else:
        rows = batch["messages"] if "messages" in batch else list(map(encode.ended, batch["text"]))
    encoded = encode(rows, return_assistant_tokens_mask=args.assistant_only_loss)
    starts = [0] * len(rows)
    if "completion" in batch and args.completion_only_loss is not False:
        starts = encode.begins(batch, [encoded["input_ids"]], limit)
    masks = encoded["assistant_masks"] if "assistant_masks" in encoded else [None] * len(rows)
    window = slice(limit) if args.packing else _window(args, limit)  # packing keeps the beginning
    for ids, start, mask in zip(encoded["input_ids"], starts, masks, strict=True):
        if mask is not None and 1 not in mask:
            raise DataError(
                "assistant_only_loss: a row has no token of the assistant in this chat template",
                "look at rows with `align data show`, or set it to false",
            )
        first, last, _ = window.indices(len(ids))
        counting = range(max(first + 1, start), last)  # the first token is predicted from nothing
        has_loss = bool(counting) if mask is None else any(mask[i] for i in counting)
        yield Fate(len(ids), cut=last - first < len(ids), no_loss=not has_loss)


def _cut_pairs(batch: Columns, encode: _Encoder, window: slice) -> Iterator[Fate]:
    """Pairs of dpo: both sides are cut; what the prompt alone fills is left out."""
    sides = [encode(encode.joined(batch, side))["input_ids"] for side in ("chosen", "rejected")]
    begins = encode.begins(batch, sides, window.stop)
    for begin, chosen, rejected in zip(begins, *sides, strict=True):
        kept = chosen[window], rejected[window]
        equal = chosen == rejected
        full = window.stop is not None and begin >= window.stop
        yield Fate(
            max(len(chosen), len(rejected)),
            cut=len(kept[0]) < len(chosen) or len(kept[1]) < len(rejected),
            equal=equal,
            equal_once_cut=not equal and not full and kept[0] == kept[1],
            no_loss=full,
        )


def _whole_pairs(batch: Columns, encode: _Encoder, limit: int | None) -> Iterator[Fate]:
    """Pairs of rm: one with a side over the limit is left out whole."""
    sides = [encode(encode.joined(batch, side))["input_ids"] for side in ("chosen", "rejected")]
    for chosen, rejected in zip(*sides, strict=True):
        too_long = _over((chosen, rejected), limit)
        yield Fate(max(len(chosen), len(rejected)), too_long=too_long, equal=chosen == rejected)


def _prompts(prompts: list[Ids], limit: int | None) -> Iterator[Fate]:
    for ids in prompts:
        yield Fate(len(ids), too_long=_over((ids,), limit))


def _loss_template(tokenizer: Any, args: Any) -> str | None:
    """The chat template that marks the assistant's tokens, where the tokenizer's own does not."""
    if not args.assistant_only_loss:
        return None
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(tokenizer.chat_template or ""):
        return None
    try:
        return str(get_training_chat_template(tokenizer))
    except ValueError:
        raise ConfigError(
            "assistant_only_loss: the chat template does not mark what the assistant says, and TRL "
            "knows no version of it that does",
            "put {% generation %} and {% endgeneration %} around it, or set it to false",
        ) from None


def _splits_long_rows(args: Any) -> bool:
    """Whether packing goes on with the rest of a long row in the next block."""
    return bool(args.packing) and args.packing_strategy != "bfd"


def _over(sides: tuple[Ids, ...], limit: int | None) -> bool:
    return limit is not None and max(map(len, sides)) > limit


def _window(args: Any, limit: int | None) -> slice:
    if limit is None:
        return slice(None)
    return slice(limit) if args.truncation_mode == "keep_start" else slice(-limit, None)


def _common(ids: Ids, others: Ids) -> int:
    """How many tokens two texts begin with alike; nearly always all of the first."""
    if others[: len(ids)] == ids:
        return len(ids)
    pairs = enumerate(zip(ids, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ids), len(others)))
