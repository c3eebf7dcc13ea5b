"""The definition of a stage; the stages themselves are the modules of `alignment/stages/`.

This module imports nothing heavy, so that help, pipelines and plans stay fast.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

Values: TypeAlias = Mapping[str, Any]
#: The kinds of rows, in the order in which stages are listed.
Kind = Literal["text", "sft", "preference", "unpaired", "prompt"]
LongRows = Literal["cut", "drop", "refuse"]
Reference = Literal["always", "with_beta", "never"]
LengthKey = Literal["max_length", "max_completion_length"]

#: The models that a stage can use from an earlier stage, and the key that gets the path.
ROLES = {"model": "model_name_or_path", "reward_model": "reward_model"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of the report: metrics as (key, label), and what a good curve looks like."""

    title: str
    keys: tuple[tuple[str, str], ...]
    hint: str = ""
    baseline: float | None = None


class Rule(NamedTuple):
    """Values of keys that cannot work: the key to name, the test, why, and what to do.

    ``{}`` in ``why`` is replaced by the value of the key.
    """

    key: str
    is_wrong: Callable[[Values], bool]
    why: str
    remedy: str


def _never(values: Values) -> bool:
    return False


class Ignored(NamedTuple):
    """Keys that nothing reads, or only if other values say so; to give one is an error.

    Attributes:
        keys: Keys of any stage.
        why: What follows the key in the error.
        remedy: What to do.
        switch: The key that decides whether they act. A user who gives it has decided, and may
            keep the others in a recipe.
        unless: When they act.
    """

    keys: tuple[str, ...]
    why: str
    remedy: str = "leave it out"
    switch: str = ""
    unless: Callable[[Values], bool] = _never


def only_with(key: str, *others: str) -> Ignored:
    """Keys that act only if another one is on."""
    return Ignored(
        others,
        f"acts only with {key}",
        f"set {key}: true, or leave it out",
        key,
        lambda values: bool(values[key]),
    )


def has_held_out_rows(values: Values) -> bool:
    """Whether a stage is evaluated on anything."""
    return bool(values["eval_data"]) or values["eval_fraction"] > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """All that the rest of the program needs to know about a stage.

    No field has a default: a new stage must answer every question.

    Attributes:
        name: Name of its command and its module.
        summary: One line for `align --help`.
        kind: The kind of its rows.
        config: The class (module:name) of its trainer's settings.
        roles: Models that it uses from earlier stages, keys of `ROLES`.
        keys: Keys that ``--help`` shows, in this order; see `help_keys`.
        help: Texts of the keys that this stage explains itself; `settings.help` has the others.
        rules: Values that cannot work in this stage.
        ignored: Keys of its config that this stage does not read.
        losses: Values that ``loss_type`` may have; empty: the schema knows them, or there is none.
        answer_losses: Losses that learn from a pair whose two answers are equal.
        splits_prompt: A tokenised row keeps the prompt apart from the answer.
        rows_per_example: Sequences in a batch for each row.
        joins_rows: Its trainer can join rows into one sequence (``packing``, ``padding_free``).
        reads_in_order: Its trainer reads the rows in the order of the data set, so they are
            shuffled once before.
        long_rows: What happens to a row over the limit: its tokens are cut, the row is left out,
            or the run is rejected unless ``on_bad_row`` is drop.
        length_key: The key that shortens its sequences.
        samples: It generates the answers that it learns from.
        reference: When it holds a reference model: always, with ``beta`` over 0, or never.
        critic: It trains a critic.
        classifier: It trains a score head in place of the language model's head.
        unmatched_passes: Passes over as many tokens as the batch has that policy and reference
            make without gradient before each loss.
        resumes_with_other_batch: A run can resume with another ``per_device_train_batch_size``.
        best_metric: The one of ``metrics`` by which its best model is chosen.
        metrics: What an evaluation measures, and whether more of it is better; None: neither. A
            name that ends with a slash stands for all that begin with it.
        panels: Charts in the report.
    """

    name: str
    summary: str
    kind: Kind
    config: str
    roles: tuple[str, ...]
    keys: tuple[str, ...]
    help: Mapping[str, str]
    rules: tuple[Rule, ...]
    ignored: tuple[Ignored, ...]
    losses: tuple[str, ...]
    answer_losses: tuple[str, ...]
    splits_prompt: bool
    rows_per_example: int
    joins_rows: bool
    reads_in_order: bool
    long_rows: LongRows
    length_key: LengthKey
    samples: bool
    reference: Reference
    critic: bool
    classifier: bool
    unmatched_passes: int
    resumes_with_other_batch: bool
    best_metric: str
    metrics: Mapping[str, bool | None]
    panels: tuple[Panel, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for a value that the rest of the program does not know."""
        known = {
            "kind": Kind,
            "long_rows": LongRows,
            "reference": Reference,
            "length_key": LengthKey,
        }
        for field, words in known.items():
            if getattr(self, field) not in get_args(words):
                raise ValueError(f"{self.name}: {field} is not one of {get_args(words)}")
        if not set(self.roles) <= set(ROLES):
            raise ValueError(f"{self.name}: roles are not among {tuple(ROLES)}")

    def measures(self, metric: str) -> bool:
        """Whether an evaluation has a metric, with or without ``eval_`` before its name."""
        return self._known(metric) in self.metrics

    def direction(self, metric: str) -> bool | None:
        """Whether more of a metric is better; None if that is for the user to say."""
        return self.metrics.get(self._known(metric))

    def _known(self, metric: str) -> str:
        name = metric.removeprefix("eval_")
        group = name[: name.find("/") + 1]
        return group if group in self.metrics else name

    def has_reference(self, values: Values) -> bool:
        """Whether a run with these settings compares the policy with a reference model."""
        return self.reference == "always" or (
            self.reference == "with_beta" and bool(values["beta"])
        )

    def shuffles_rows(self, values: Values) -> bool:
        """Whether rows are shuffled before training, so that their numbers are not the file's."""
        return self.reads_in_order or bool(values.get("shuffle_dataset"))


class _Stages(Mapping[str, Stage]):
    """The stages by name, read from their modules when the first one is asked for."""

    def __getitem__(self, name: str) -> Stage:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @cached_property
    def _found(self) -> dict[str, Stage]:
        """Import the modules of the folder; each must define the stage of its name.

        Raises:
            AttributeError: A module does not define ``STAGE``.
            ValueError: The name of a stage differs from that of its module.
        """
        folder = Path(__file__).parent / "stages"
        stages: list[Stage] = []
        for module in pkgutil.iter_modules([str(folder)]):
            stage = importlib.import_module(f"alignment.stages.{module.name}").STAGE
            if stage.name != module.name:
                raise ValueError(f"alignment/stages/{module.name}.py defines '{stage.name}'")
            stages.append(stage)
        kinds = get_args(Kind)
        stages.sort(key=lambda stage: (kinds.index(stage.kind), stage.name))
        return {stage.name: stage for stage in stages}


STAGES: Mapping[str, Stage] = _Stages()


def help_keys(*own: str) -> tuple[str, ...]:
    """The keys that ``--help`` shows: a stage's own keys among those of every stage."""
    return (
        "model_name_or_path",
        "train_data",
        "eval_data",
        "output_dir",
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        *own,
        "use_peft",
        "lora_r",
        "lora_alpha",
        "logging_steps",
        "save_steps",
        "report_to",
        "seed",
        "resume",
        "overwrite",
    )


def bounds(
    keys: tuple[str, ...], is_right: Callable[[float], bool], expected: str
) -> tuple[Rule, ...]:
    """A rule for each of some keys: its number, if the stage has one, lies within bounds."""

    def is_wrong(values: Values, key: str) -> bool:
        value = values.get(key)
        return isinstance(value, int | float) and not is_right(value)

    return tuple(
        Rule(key, partial(is_wrong, key=key), f"{{}} must be {expected}", f"change {key}")
        for key in keys
    )


def panel(key: str, title: str, hint: str = "", baseline: float | None = None) -> Panel:
    """One metric, in training and on held-out rows."""
    return Panel(title, ((key, "train"), (f"eval_{key}", "held out")), hint, baseline)


NO_TASK = Ignored(("lora_task_type",), "the stage knows its task")
#: Keys that only a language model trained on the rows themselves reads.
NO_LANGUAGE_KEYS = (
    Ignored(
        ("label_smoothing_factor", "average_tokens_across_devices"),
        "is of stages that learn next tokens",
    ),
    Ignored(
        ("dataset_num_proc",),
        "rows are tokenised before, by one process, and kept",
    ),
    Ignored(
        ("train_sampling_strategy",),
        "{} needs rows of one sequence",
        "set it to random or sequential",
        unless=lambda values: values["train_sampling_strategy"] in ("random", "sequential"),
    ),
    Ignored(("length_column_name",), "rows are not grouped by length"),
)
MOVING_REFERENCE_KEYS = only_with("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps")
#: Shared by the stages with a reference model that may follow the policy.
REFERENCE_KEYS = (
    NO_TASK,
    MOVING_REFERENCE_KEYS,
    only_with("precompute_ref_log_probs", "precompute_ref_batch_size"),
)
#: Shared by the stages that train a language model on the rows themselves.
LANGUAGE_KEYS = (
    NO_TASK,
    Ignored(("dataset_kwargs",), "rows are prepared before TRL gets them"),
    Ignored(
        ("dataset_text_field",), "columns are named in one place", "set columns: text=NAME instead"
    ),
    Ignored(
        ("dataset_num_proc",),
        "acts only with packing: rows are tokenised before, by one process, and kept",
        "leave it out",
        "packing",
        lambda values: bool(values["packing"]),
    ),
    Ignored(
        ("packing_strategy",),
        "acts only with packing",
        "set packing: true, or leave it out",
        "packing",
        lambda values: bool(values["packing"] or values["eval_packing"]),
    ),
    Ignored(("length_column_name",), "lengths are those of the tokens"),
)
ENTROPY = panel("entropy", "Entropy", "Nats per token; how undecided the model still is")
#: Of stages that compare answers with those of a reference.
IMPLICIT_REWARD_METRICS: Mapping[str, bool | None] = {
    "rewards/margins": True,
    "rewards/chosen": None,
    "rewards/rejected": None,
    "logps/chosen": None,
    "logps/rejected": None,
    "logits/chosen": None,
    "logits/rejected": None,
    "entropy": None,
    "aux_loss": False,
}
LANGUAGE_METRICS: Mapping[str, bool | None] = {
    "loss": False,
    "mean_token_accuracy": True,
    "entropy": None,
    "aux_loss": False,
}
LANGUAGE_PANELS = (
    panel("loss", "Loss", "Falls; on held-out rows too"),
    panel("mean_token_accuracy", "Token accuracy", "Share of next tokens predicted"),
    ENTROPY,
)
