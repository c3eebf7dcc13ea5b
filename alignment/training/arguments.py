"""What every TRL trainer takes, loaded in one order: tokenizer, rows, the counts of both, model."""

from collections.abc import Callable
from typing import Any

from trl import get_quantization_config

from alignment.data.counts import check_data
from alignment.data.load import load_datasets
from alignment.models.policy import load_policy
from alignment.models.tokenizer import load_tokenizer
from alignment.registry import STAGES
from alignment.training.job import Job


def trainer_arguments(
    job: Job, *, load_model: Callable[..., dict[str, Any]] = load_policy
) -> dict[str, Any]:
    """The keyword arguments of a stage's trainer.

    Raises:
        AlignError: data or a model that cannot be used; before any weight is read where the data
            is at fault.
    """
    data, _, model, args = job.dataclasses()
    tokenizer = load_tokenizer(
        str(model.model_name_or_path),
        revision=model.model_revision,
        trust_remote_code=args.trust_remote_code,
    )
    kind = STAGES[job.settings.stage].kind
    train, held_out = load_datasets(data, kind=kind, tokenizer=tokenizer, seed=args.seed)
    check_data(job.run, train, held_out, tokenizer=tokenizer, args=args)
    return {
        **load_model(model, args),
        "args": args,
        "train_dataset": train,
        "eval_dataset": held_out,
        "processing_class": tokenizer,
        "quantization_config": get_quantization_config(model),
        "callbacks": job.callbacks(),
    }
