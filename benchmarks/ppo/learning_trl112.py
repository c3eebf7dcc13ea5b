"""TRL 1.12's PPOTrainer on the demo; run by `learning_demo.py` in an environment of its own.

It takes no reward function, so what the others' reward does around the reward model is built in:
the statistics go into the score head, and its own `missing_eos_penalty` is the same. The value
model starts from that reward model. It has one learning rate for both, and clips no gradients.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from learning_examine import MAX_NEW_TOKENS, DemoExam, Examine
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    set_seed,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("start", "reward", "questions", "prompts", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rule", required=True)
    for name in ("seed", "rollouts", "every"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("learning-rate", "beta"):
        parser.add_argument(f"--{name}", type=float, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(args.seed)
    exam = DemoExam(args.start, args.reward, args.questions, args.rule)
    callback = Examine(lambda model, edge: exam(model.policy, edge), steps=args.every)
    trainer = make_trainer(args, callback)
    trainer.train()
    names = ("objective/kl", "objective/scores", "policy/entropy_avg", "loss/value_avg")
    history = trainer.state.log_history[args.every - 1 :: args.every]
    log = [{name: entry[name] for name in names if name in entry} for entry in history]
    found = {"found": callback.found, "cpu_seconds": callback.spent, "log": log}
    args.out.write_text(json.dumps(found), encoding="utf-8")


def make_trainer(args: argparse.Namespace, callback: Examine) -> PPOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(args.start, padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(args.start) for _ in range(2))
    with args.prompts.open(encoding="utf-8") as lines:
        prompts = [[{"role": "user", "content": json.loads(line)["prompt"]}] for line in lines]
    ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)
    config = PPOConfig(
        str(args.work),
        per_device_train_batch_size=64,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=2,
        total_episodes=64 * args.rollouts,
        response_length=MAX_NEW_TOKENS,
        stop_token="eos",
        missing_eos_penalty=1.0,
        temperature=1.0,
        kl_coef=args.beta,
        learning_rate=args.learning_rate,
        adam_beta2=0.95,
        lr_scheduler_type="cosine",
        num_sample_generations=0,
        seed=args.seed,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=normalised(args.reward),
        value_model=normalised(args.reward),
        train_dataset=Dataset.from_dict({"input_ids": ids["input_ids"]}),
        callbacks=[callback],
    )


def normalised(folder: Path) -> Any:
    """The reward model with its mean and deviation on reference answers in the score head."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    stats = json.loads((folder / "reward_stats.json").read_text(encoding="utf-8"))
    head = torch.nn.Linear(model.score.in_features, 1)
    with torch.no_grad():
        head.weight.copy_(model.score.weight / stats["std"])
        head.bias.fill_(-stats["mean"] / stats["std"])
    model.score = head
    return model


if __name__ == "__main__":
    main()
