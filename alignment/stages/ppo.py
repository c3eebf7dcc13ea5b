"""Proximal policy optimisation against a reward model (arXiv 2203.02155, 2403.17031)."""

from alignment.job import Job
from alignment.ppo.rewards import load_rewards
from alignment.ppo.trainer import PPOTrainer
from alignment.stages.arguments import trainer_arguments


def run(job: Job) -> None:
    """Train on prompts; the reference is the model that training starts from."""
    arguments = trainer_arguments(job)
    args = arguments["args"]
    rewards, reward_tokenizers = load_rewards(
        args.reward_model,
        policy_tokenizer=arguments["processing_class"],
        trust_remote_code=args.trust_remote_code,
        accuracy_gate=args.reward_accuracy_gate,
        timeout=args.reward_timeout,
        retries=args.reward_retries,
    )
    trainer = PPOTrainer(
        **arguments, reward_funcs=rewards, reward_processing_classes=reward_tokenizers
    )
    job.train(trainer)
