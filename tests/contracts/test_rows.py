"""The same rows and model in TRL's own trainers: the same batches, masks and losses.

TRL masks conversations (`messages`) with `assistant_only_loss`; all else is its default.
"""

import copy
import json
import operator
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_cases import CASES
from datasets import Dataset
from support import write_jsonl
from transformers import set_seed
from trl import DPOTrainer, KTOTrainer, RewardTrainer, SFTTrainer

from alignment.models.folders import load_tokenizer
from alignment.registry import STAGES
from alignment.runs.files import CHAT_TEMPLATE, TOKENIZER_CONFIG
from alignment.settings.resolve import build, resolve
from alignment.training.arguments import trainer_arguments
from alignment.training.job import open_job
from alignment.training.signals import StopSignals
from alignment.training.trainers import (
    PreparedDPOTrainer,
    PreparedKTOTrainer,
    PreparedRewardTrainer,
    PreparedSFTTrainer,
)

Row = dict[str, Any]
OURS: dict[str, Any] = {
    "pt": PreparedSFTTrainer,
    "sft": PreparedSFTTrainer,
    "rm": PreparedRewardTrainer,
    "dpo": PreparedDPOTrainer,
    "kto": PreparedKTOTrainer,
}
THEIRS: dict[str, Any] = {
    "pt": SFTTrainer,
    "sft": SFTTrainer,
    "rm": RewardTrainer,
    "dpo": DPOTrainer,
    "kto": KTOTrainer,
}
STEPS = 3
#: Prompts and answers; a token covers the border of the third.
TEXTS = [
    ("What is two", " plus two? 四。"),
    ("hi ", "Hello!\n"),
    ("hel", "lo, how are"),
    ("二加二", "等于四"),
    ("Say a", " b"),
    ("q" * 40, "a" * 30),
]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def chats() -> list[Row]:
    """Conversations of several turns, some with a system turn."""
    rows = []
    for i, (asked, answered) in enumerate(TEXTS):
        first = [{"role": "system", "content": "Be brief."}] * (i % 2)
        turns = [user(asked), assistant(answered), user(answered), assistant(f"{asked}?")]
        rows.append({"messages": [*first, *turns[: 2 + 2 * (i % 3 > 0)]]})
    return rows


TEXT_ROWS = [{"prompt": asked, "completion": answered} for asked, answered in TEXTS]
CHAT_ROWS = [
    {"prompt": [user(a), assistant("So?"), user(b)], "completion": [assistant(a + b)]}
    for a, b in TEXTS
]
TEXT_PAIRS = [{"prompt": a, "chosen": b, "rejected": f"{b} no"} for a, b in TEXTS]
CHAT_PAIRS = [
    {"prompt": [user(a)], "chosen": [assistant(b)], "rejected": [assistant(a)]} for a, b in TEXTS
]
BARE, MARKED, LLAMA3 = None, "", CASES["llama3"].template
#: Stage, rows, chat template (the tiny model's own has generation marks) and further flags.
RUNS: dict[str, tuple[str, list[Row], str | None, list[str]]] = {
    "text": ("pt", [{"text": a + b} for a, b in TEXTS], BARE, ["--packing", "false"]),
    "packed text": ("pt", [{"text": (a + b) * 3} for a, b in TEXTS], BARE, ["--packing"]),
    "sft text": ("sft", TEXT_ROWS, BARE, []),
    "sft text as it is": ("sft", TEXT_ROWS, MARKED, ["--as_chat", "false"]),
    "sft prompts and completions": ("sft", CHAT_ROWS, MARKED, []),
    "sft conversations": ("sft", chats(), MARKED, []),
    "sft conversations, no marks": ("sft", chats(), LLAMA3, []),
    "sft prompts and completions, no marks": ("sft", CHAT_ROWS, LLAMA3, []),
    "rm text": ("rm", TEXT_PAIRS, BARE, []),
    "rm turns": ("rm", CHAT_PAIRS, MARKED, []),
    "dpo text": ("dpo", TEXT_PAIRS, BARE, []),
    "dpo turns": ("dpo", CHAT_PAIRS, MARKED, []),
    "dpo turns, no marks": ("dpo", CHAT_PAIRS, LLAMA3, []),
    "dpo cut": ("dpo", TEXT_PAIRS, BARE, ["--max_length", "24"]),
    "kto text": ("kto", [{**r, "label": i % 2 == 0} for i, r in enumerate(TEXT_ROWS)], BARE, []),
    "kto turns": ("kto", [{**r, "label": i < 3} for i, r in enumerate(CHAT_ROWS)], MARKED, []),
}


def recording(base: Any) -> Any:
    """A trainer that keeps its batches and losses."""

    class Recording(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.batches: list[dict[str, Any]] = []
            self.losses: list[float] = []
            set_seed(kwargs["args"].seed)  # the score head is random
            super().__init__(*args, **kwargs)

        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            self.batches.append(copy.deepcopy(inputs))
            loss = super().training_step(model, inputs, *rest)
            self.losses.append(float(loss))
            return loss

    return Recording


def model_with(folder: Path, model: Path, template: str | None) -> Path:
    """A copy of a model with another chat template; None: without one, empty: its own."""
    shutil.copytree(model, folder)
    if template is None:
        (folder / CHAT_TEMPLATE).unlink()
    elif template:
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
        config = json.loads((folder / TOKENIZER_CONFIG).read_text())
        (folder / TOKENIZER_CONFIG).write_text(json.dumps({**config, "bos_token": "<|im_start|>"}))
    return folder


# what KTO and RewardTrainer say of random models and few rows
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", RUNS)
def test_batches_and_losses_are_those_of_trl(name: str, tmp_path: Path, tiny_dir: Path) -> None:
    stage, rows, template, more = RUNS[name]
    model = model_with(tmp_path / "model", tiny_dir, template)
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    argv = ["--model_name_or_path", str(model), "--train_data", str(data)]
    argv += ["--output_dir", str(tmp_path / "out"), "--max_steps", str(STEPS), "--use_cpu"]
    argv += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-3", "--seed", "5"]
    argv += ["--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true"]
    settings = resolve(stage, [*argv, "--activation_checkpointing", "false", *more])
    job = open_job(settings, StopSignals())
    ours = recording(OURS[stage])(**trainer_arguments(job) | {"callbacks": []})
    ours.train()

    args = build(settings)[-1]
    args.assistant_only_loss = "messages" in rows[0]
    raw = Dataset.from_list(rows)
    if STAGES[stage].reads_in_order:
        raw = raw.shuffle(seed=args.seed)
    theirs = recording(THEIRS[stage])(
        model=str(model), args=args, train_dataset=raw, processing_class=load_tokenizer(str(model))
    )
    theirs.train()

    assert len(ours.batches) == len(theirs.batches) == STEPS
    for one, other in zip(ours.batches, theirs.batches, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            is_equal = torch.equal if torch.is_tensor(value) else operator.eq
            assert is_equal(one[key], value), key
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-6, rel=0)
