"""Supervised fine-tuning: the model learns to give the answers of the data."""

from trl import SFTTrainer, get_quantization_config

from alignment.checks import check_data
from alignment.data import load_datasets
from alignment.job import Job
from alignment.models import load_policy, load_tokenizer


def run(job: Job) -> None:
    """Train on answers; of ``{"prompt","completion"}`` rows only the completion carries loss."""
    data, _, model, args = job.dataclasses()
    tokenizer = load_tokenizer(model, args)
    train, held_out = load_datasets(data, kind="sft", tokenizer=tokenizer, seed=args.seed)
    check_data(job.run, train, held_out, tokenizer=tokenizer, args=args)
    trainer = SFTTrainer(
        **load_policy(model, args),
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model),
        callbacks=job.callbacks(),
    )
    job.train(trainer)
