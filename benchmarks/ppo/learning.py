"""Learning curves of PPO, RLOO and GRPO at equal generated tokens, five seeds, two rules.

    python benchmarks/ppo/learning.py --out benchmarks/ppo/results

A small Llama learns from noisy examples (supervised, half of the answers spoilt) to rewrite five
letters: rule `reverse` turns them round, rule `sort` sorts them. Then each algorithm gets the same
start, rollouts of 64 responses, two passes over each, and the reward: the share of letters in their
right place, less a third for a response that does not end. What is drawn is what no algorithm sees:
exact answers, sampled at temperature 1, to prompts held out.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from learning_draw import draw
from learning_examine import Examine
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from alignment.ppo.config import PPOConfig
from alignment.ppo.trainer import PPOTrainer

LETTERS = "abcdefghijkl"
LENGTH = 5
ROLLOUT = 64
PASSES = 2
CRITIC_LEARNING_RATES = {"ppo-head": 1e-4, "ppo-model": 5e-4}
RULES = {"reverse": lambda text: text[::-1], "sort": lambda text: "".join(sorted(text))}
ALGORITHMS = ("ppo-head", "ppo-model", "rloo", "grpo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rollouts", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--work", type=Path, default=Path("/tmp/ppo-learning"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "learning.json"
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for rule in args.rules:
        start = args.work / rule
        if not (start / "model.safetensors").exists():
            supervise(rule, start)
        for seed in range(args.seeds):
            for algorithm in args.algorithms:
                run = train(algorithm, rule, start, seed, args)
                runs = [r for r in runs if key_of(r) != key_of(run)] + [run]
                path.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
                curve = " ".join(f"{y:.2f}" for y in run["exact"])
                print(f"{rule} {algorithm} {seed}: {curve}  {run['seconds']:.0f} s", flush=True)
    draw(runs, args.out / "learning.svg", measure="exact", label="exact, held out")


def key_of(run: dict[str, Any]) -> tuple[str, str, int]:
    return run["rule"], run["algorithm"], run["seed"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<eos>", "<unk>", "=", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def draw_prompts(count: int, *, seed: int, held_out: bool) -> list[str]:
    """Prompts; those whose letters sum to a multiple of 5 are held out from all training."""
    rng = random.Random(seed)
    found: list[str] = []
    while len(found) < count:
        text = "".join(rng.choice(LETTERS) for _ in range(LENGTH))
        if (sum(map(ord, text)) % 5 == 0) == held_out:
            found.append(text + "=")
    return found


def supervise(rule: str, folder: Path) -> None:
    """Train the start of all algorithms: every other answer has two letters spoilt."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    rng = random.Random(1)
    steps = 1500
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        rows = []
        for prompt in draw_prompts(64, seed=step, held_out=False):
            answer = list(RULES[rule](prompt[:-1]))
            if rng.random() < 0.5:
                for place in rng.sample(range(LENGTH), 2):
                    answer[place] = rng.choice(LETTERS)
            rows.append(tokenizer(prompt + "".join(answer))["input_ids"] + [1])
        ids = torch.tensor(rows)
        labels = ids.clone()
        labels[:, : LENGTH + 1] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def reward_of(rule: str) -> Any:
    def places(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        found = []
        for prompt, completion, ids in zip(
            prompts, completions, columns["completion_ids"], strict=True
        ):
            right = RULES[rule](prompt[:-1])
            letters = completion.replace(" ", "")
            hits = sum(a == b for a, b in zip(letters, right, strict=False)) / LENGTH
            found.append(hits - (0.0 if ids[-1] == 1 else 1 / 3))
        return found

    return places


def exact(model: Any, tokenizer: Any, rule: str) -> float:
    """Share of exact answers to held-out prompts, sampled."""
    prompts = draw_prompts(256, seed=7, held_out=True)
    ids = torch.tensor([tokenizer(p)["input_ids"] for p in prompts])
    torch.manual_seed(0)
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            max_new_tokens=LENGTH + 3,
            pad_token_id=0,
            eos_token_id=1,
        )
    texts = tokenizer.batch_decode(output[:, LENGTH + 1 :], skip_special_tokens=True)
    right = [
        text.replace(" ", "") == RULES[rule](prompt[:-1])
        for text, prompt in zip(texts, prompts, strict=True)
    ]
    return sum(right) / len(right)


def train(
    algorithm: str, rule: str, start: Path, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
    prompts = draw_prompts(ROLLOUT * args.rollouts, seed=100 + seed, held_out=False)
    examine = Examine(
        lambda model, _: {"exact": exact(model, tokenizer, rule)}, steps=PASSES * args.every
    )
    keys: dict[str, Any] = {
        "output_dir": str(args.work / "out"),
        "per_device_train_batch_size": ROLLOUT,
        "gradient_accumulation_steps": 1,
        "max_completion_length": LENGTH + 3,
        "max_steps": PASSES * args.rollouts,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "constant",
        "temperature": 1.0,
        "seed": seed,
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    several = {"num_generations": 4, "num_iterations": PASSES, "beta": 0.02}
    given: dict[str, Any] = {
        "model": str(start),
        "reward_funcs": reward_of(rule),
        "train_dataset": Dataset.from_dict({"prompt": prompts}),
        "processing_class": tokenizer,
        "callbacks": [examine],
    }
    match algorithm:
        case "ppo-head" | "ppo-model":
            config = PPOConfig(
                num_ppo_epochs=PASSES,
                beta=0.02,
                critic=algorithm.removeprefix("ppo-"),
                critic_learning_rate=CRITIC_LEARNING_RATES[algorithm],
                missing_eos_penalty=None,
                sample_steps=0,
                **keys,
            )
            trainer: Any = PPOTrainer(args=config, **given)
        case "rloo":
            trainer = RLOOTrainer(args=RLOOConfig(**several, **keys), **given)
        case "grpo":
            trainer = GRPOTrainer(args=GRPOConfig(**several, **keys), **given)
    trainer.train()
    return {
        "rule": rule,
        "algorithm": algorithm,
        "seed": seed,
        "responses": [i * args.every * ROLLOUT for i in range(len(examine.spent))],
        "exact": [found["exact"] for found in examine.found],
        "cpu_seconds": examine.spent,
        "seconds": examine.spent[-1],
        "learning_rate": args.learning_rate,
    }


if __name__ == "__main__":
    main()
