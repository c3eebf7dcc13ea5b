"""Proximal policy optimisation against a reward model (arXiv 2203.02155, 2403.17031)."""

from trl import get_quantization_config

from alignment.checks import check_data
from alignment.data import load_datasets
from alignment.job import Job
from alignment.models import load_policy, load_tokenizer
from alignment.ppo.rewards import load_rewards
from alignment.ppo.trainer import PPOTrainer


def run(job: Job) -> None:
    """Train on prompts; the reference is the model that training starts from."""
    data, _, model, args = job.dataclasses()
    tokenizer = load_tokenizer(model, args)
    train, held_out = load_datasets(data, kind="prompt", tokenizer=tokenizer, seed=args.seed)
    check_data(job.run, train, held_out, tokenizer=tokenizer, args=args)
    rewards, reward_tokenizers = load_rewards(
        args.reward_model,
        policy_tokenizer=tokenizer,
        trust_remote_code=args.trust_remote_code,
        accuracy_gate=args.reward_accuracy_gate,
        timeout=args.reward_timeout,
        retries=args.reward_retries,
    )
    trainer = PPOTrainer(
        **load_policy(model, args),
        reward_funcs=rewards,
        reward_processing_classes=reward_tokenizers,
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model),
        callbacks=job.callbacks(),
    )
    job.train(trainer)
