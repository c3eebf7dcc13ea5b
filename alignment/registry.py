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
        best_metric: The held-out metric by which its best model is chosen, and whether more of it
            is better.
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
    best_metric: tuple[str, bool]
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


#: Shared by the stages that train a language model on the rows themselves.
ENTROPY = panel("entropy", "Entropy", "Nats per token; how undecided the model still is")
LANGUAGE_PANELS = (
    panel("loss", "Loss", "Falls; on held-out rows too"),
    panel("mean_token_accuracy", "Token accuracy", "Share of next tokens predicted"),
    ENTROPY,
)
