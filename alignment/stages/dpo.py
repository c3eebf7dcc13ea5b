"""Direct preference optimisation (arXiv 2305.18290): preferences without a reward model."""

from trl import DPOTrainer, get_quantization_config

from alignment.checks import check_data
from alignment.data import load_datasets
from alignment.job import Job
from alignment.models import load_policy, load_tokenizer


def run(job: Job) -> None:
    """Train on pairs; the reference is the model that training starts from."""
    data, _, model, args = job.dataclasses()
    tokenizer = load_tokenizer(model, args)
    train, held_out = load_datasets(data, kind="preference", tokenizer=tokenizer, seed=args.seed)
    check_data(job.run, train, held_out, tokenizer=tokenizer, args=args)
    trainer = DPOTrainer(
        **load_policy(model, args),
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model),
        callbacks=job.callbacks(),
    )
    job.train(trainer)
