"""What every TRL trainer takes, loaded in one order: tokenizer, rows, model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alignment.data.load import load_datasets
from alignment.data.rows import Start, prepare_stage
from alignment.models.folders import load_tokenizer
from alignment.models.policy import load_policy
from data_tools.rendering import from_transformers

if TYPE_CHECKING:
    from alignment.training.job import Job


def trainer_arguments(
    job: Job, *, load_model: Callable[..., dict[str, Any]] = load_policy
) -> dict[str, Any]:
    """The keyword arguments of a stage's trainer.

    Raises:
        AlignError: a tokenizer or model that cannot be used.
    """
    _, _, model, args = job.dataclasses()
    tokenizer = load_tokenizer(
        str(model.model_name_or_path),
        revision=model.model_revision,
        trust_remote_code=args.trust_remote_code,
    )
    # TRL adds the tokens of chat_template_path itself, so that LoRA trains their embeddings
    for_trainer = copy.deepcopy(tokenizer) if job.rows.changes.added else tokenizer
    job.rows.changes.make(tokenizer)
    found = from_transformers(tokenizer)
    if found.key != job.rows.renderer.tokenizer.key:
        # transformers reads these files in another way; the trainer's tokenizer decides
        start = Start(found, job.rows.start.positions, job.rows.start.vocabulary)
        job.rows = prepare_stage(job.rows.stage, job.settings.values, start)
    train, held_out = load_datasets(job.rows, job.settings.values)
    args.remove_unused_columns = False  # there are none, and TRL does not know the masks
    if "assistant_only_loss" in job.settings.values:
        args.assistant_only_loss = False  # the rows are masked; TRL would ask for conversations
    return {
        **load_model(model, args),
        "args": args,
        "train_dataset": train,
        "eval_dataset": held_out,
        "processing_class": for_trainer,
        "callbacks": job.callbacks(),
    }
