"""The results of an evaluation as frozen records, and the two files that store them.

`eval.json` has the settings and a summary of each model; `answers.jsonl` has one line for each
prompt with every model's answer and scores. Reading them needs no torch.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.disk import write_text
from alignment.errors import DataError

Prompt = str | list[dict[str, Any]]
"""A plain string, or a list of messages with `role` and `content`."""

EVALUATION_FILE = "eval.json"
ANSWERS_FILE = "answers.jsonl"


@dataclass(frozen=True)
class NamedModel:
    """A model to evaluate: the name that tables show, and its folder or hub name."""

    name: str
    path: str


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over `n` prompts; no interval if `n` is below two."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Rule:
    """A rule that scored the answers; it gives a share if all scores are 0 or 1, else a mean."""

    name: str
    spec: str
    is_share: bool


@dataclass(frozen=True)
class Summary:
    """All measurements of one model.

    Differences are this model minus the reference on the same prompts. KL is in nats; lengths are
    in tokens, including EOS.
    """

    name: str
    path: str
    base: str | None
    run: dict[str, Any] | None
    eos_rate: Estimate
    length: Estimate
    rules: dict[str, Estimate] = field(default_factory=dict)
    rule_gains: dict[str, Estimate] = field(default_factory=dict)
    reward: Estimate | None = None
    reward_gain: Estimate | None = None
    win_rate: Estimate | None = None
    kl: Estimate | None = None
    kl_per_token: Estimate | None = None
    kl_note: str = ""


@dataclass(frozen=True)
class Answer:
    """One model's answer to one prompt; a score is None where the rule does not apply."""

    text: str
    tokens: int
    eos: bool
    scores: dict[str, float | None] = field(default_factory=dict)
    reward: float | None = None
    sampled_text: str | None = None
    sampled_kl: float | None = None


@dataclass(frozen=True)
class AnswerRow:
    """A prompt, the other columns of its row, and the answer of every model by name."""

    index: int
    prompt: Prompt
    columns: dict[str, Any]
    answers: dict[str, Answer]


@dataclass(frozen=True)
class Evaluation:
    """All results of `align eval`."""

    models: list[Summary]
    reference: str | None
    rules: list[Rule]
    reward_model: str | None
    prompts: dict[str, Any]
    options: dict[str, Any]
    versions: dict[str, str]
    device: str
    rows: list[AnswerRow]

    def summary(self, name: str) -> Summary:
        """Return the summary of the model called `name`."""
        return next(model for model in self.models if model.name == name)


def save_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write `answers.jsonl`, then `eval.json`, into `folder`; return the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(dataclasses.asdict(row), ensure_ascii=False, allow_nan=False) + "\n"
        for row in evaluation.rows
    ]
    write_text(folder / ANSWERS_FILE, "".join(lines))
    head = dataclasses.asdict(dataclasses.replace(evaluation, rows=[]))
    del head["rows"]
    text = json.dumps(head, ensure_ascii=False, indent=2, allow_nan=False)
    write_text(folder / EVALUATION_FILE, text + "\n")
    return folder / EVALUATION_FILE


def load_evaluation(folder: Path) -> Evaluation:
    """Read what `save_evaluation` wrote.

    Raises:
        DataError: `folder` has no evaluation, or one in the format of another version.
    """
    path = folder / EVALUATION_FILE
    if not path.is_file():
        raise DataError(
            f"{folder}: no {EVALUATION_FILE} there", "Give the output folder of `align eval`."
        )
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        lines = (folder / ANSWERS_FILE).read_text(encoding="utf-8").splitlines()
        return Evaluation(
            **{
                **head,
                "models": [_summary(item) for item in head["models"]],
                "rules": [Rule(**item) for item in head["rules"]],
                "rows": [_row(json.loads(line)) for line in lines],
            }
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: not an evaluation that this version can read ({error})",
            "Run `align eval` again.",
        ) from error


def _summary(item: Mapping[str, Any]) -> Summary:
    def read(value: Any) -> Any:
        if isinstance(value, Mapping) and set(value) == {"value", "low", "high", "n"}:
            return Estimate(**value)
        return value

    fields = {key: read(value) for key, value in item.items()}
    for key in ("rules", "rule_gains"):
        fields[key] = {name: read(value) for name, value in item[key].items()}
    return Summary(**fields)


def _row(item: Mapping[str, Any]) -> AnswerRow:
    answers = {name: Answer(**answer) for name, answer in item["answers"].items()}
    return AnswerRow(**{**item, "answers": answers})
