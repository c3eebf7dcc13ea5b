"""The demo's two hidden rules: PPO beside RLOO, GRPO and TRL 1.12's PPOTrainer, five seeds.

    python -m venv /tmp/trl112 && /tmp/trl112/bin/pip install torch==2.13.0 "trl==1.12.*" peft
    python benchmarks/ppo/learning_demo.py --old-python /tmp/trl112/bin/python

For every seed the demo's own stages make base, pt, sft and, for each taste, a reward model. All
algorithms then get the same start, the same reward (normalised by the reward model's statistics,
less 1 for an answer that does not end), the same number of answers and passes over each rollout;
the keys of PPO are those of `recipes/demo/ppo.yaml`. What is drawn is what no algorithm sees: the
share of greedy answers to the held-out questions that the hidden rule calls right.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from datasets import Dataset
from learning_draw import draw
from learning_examine import MAX_NEW_TOKENS, DemoExam, Examine
from learning_start import RECIPES, TASTES, prepare, python
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from alignment.ppo.config import PPOConfig
from alignment.ppo.rewards import load_rewards, read_stats
from alignment.ppo.trainer import PPOTrainer

RESULTS = Path(__file__).resolve().parent / "results"
ALGORITHMS = ("ppo", "rloo", "grpo", "trl112")
NAMES = {
    "ppo": "PPO (ours)",
    "rloo": "RLOO (TRL 1.16)",
    "grpo": "GRPO (TRL 1.16)",
    "trl112": "PPO (TRL 1.12)",
}
SEEDS = [0, 1, 2, 3, 5]
ROLLOUT = 64
PASSES = 2
GROUP = 4
WATCHED = (
    "critic/explained_variance",
    "objective/kl",
    "objective/score",
    "policy/entropy",
    "response/length",
)
#: Of the keys of the recipe, those of `align` that are no keys of a trainer.
NOT_OF_THE_TRAINER = ("train_data", "dtype", "activation_checkpointing", "report_to", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old-python", help="python with trl 1.12; without it, trl112 is left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--tastes", nargs="+", default=list(TASTES))
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--learning-rates", type=float, nargs="+", help="in place of the tuned one")
    parser.add_argument("--betas", type=float, nargs="+", help="in place of the tuned one")
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE of our PPO, as in a recipe")
    parser.add_argument("--work", type=Path, default=Path("/tmp/ppo-learning-demo"))
    parser.add_argument("--name", default="learning_demo", help="of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work = args.work.resolve()
    path = RESULTS / f"{args.name}.json"
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for seed in args.seeds:
        prepare(seed, args.work, tastes=args.tastes)
        for keys in settings(args):
            keys["seed"] = seed
            if any(key_of(run) == key_of(keys) for run in runs):
                continue  # of an earlier call: delete the results to start anew
            run = keys | train(args=args, **keys)
            runs.append(run)
            path.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
            curve = " ".join(f"{y:.3f}" for y in run["right"])
            print(*(run[key] for key in KEYS), curve, f"{run['seconds']:.0f} s", flush=True)
    if not (args.set or args.learning_rates or args.betas):  # curves of one setting each
        draw(runs, path.with_suffix(".svg"), measure="right", label="right, held out", names=NAMES)
    print(table(runs))


KEYS = ("rule", "algorithm", "seed", "learning_rate", "beta", "set")


def key_of(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[key] for key in KEYS)


def settings(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is run for a seed: every algorithm on every rule, at its own or the given rates."""
    return [
        {
            "rule": taste,
            "algorithm": algorithm,
            "learning_rate": rate,
            "beta": beta,
            "set": " ".join(args.set) if algorithm == "ppo" else "",
        }
        for taste in args.tastes
        for algorithm in args.algorithms
        if algorithm != "trl112" or args.old_python
        for rate in args.learning_rates or [TUNED[algorithm][0]]
        for beta in args.betas or [TUNED[algorithm][1]]
    ]


#: Learning rate and beta; see the README for how they were chosen.
TUNED = {
    "ppo": (1e-4, 0.05),
    "rloo": (1e-4, 0.05),
    "grpo": (1e-4, 0.05),
    "trl112": (1e-4, 0.05),
}


def train(
    *,
    rule: str,
    algorithm: str,
    seed: int,
    learning_rate: float,
    beta: float,
    args: argparse.Namespace,
    **_: Any,
) -> dict[str, Any]:
    folder, data = args.work / f"seed{seed}", args.work / f"data-{rule}"
    places = {
        "start": folder / "sft",
        "reward": folder / f"rm-{rule}",
        "questions": data / "held_out.jsonl",
        "rule": TASTES[rule],
    }
    tuned = {"learning_rate": learning_rate, "beta": beta, "seed": seed}
    if algorithm == "trl112":
        found = train_elsewhere(places, data / "prompts.jsonl", tuned, args)
    else:
        exam = Examine(DemoExam(**places), steps=PASSES * args.every)
        trainer = make_trainer(algorithm, places, data / "prompts.jsonl", tuned, exam, args)
        trainer.train()
        history = trainer.state.log_history
        log = [{name: entry[name] for name in WATCHED if name in entry} for entry in history]
        found = {"found": exam.found, "cpu_seconds": exam.spent, "log": log}
    curves = {name: [f[name] for f in found["found"]] for name in ("right", "value")}
    return {
        **curves,
        "begin": found["found"][0],
        "end": found["found"][-1],
        "responses": [i * args.every * ROLLOUT for i in range(len(found["cpu_seconds"]))],
        "cpu_seconds": found["cpu_seconds"],
        "seconds": found["cpu_seconds"][-1],
        "log": [entry for entry in found["log"] if entry],
    }


def make_trainer(
    algorithm: str, places: dict[str, Any], prompts: Path, tuned: Any, exam: Any, args: Any
) -> Any:
    """One of the trainers of this environment, with the recipe's keys as far as it has them."""
    recipe = yaml.safe_load((RECIPES / "ppo.yaml").read_text(encoding="utf-8"))
    recipe = {key: value for key, value in recipe.items() if key not in NOT_OF_THE_TRAINER}
    keys = recipe | tuned
    keys |= {
        "output_dir": str(args.work / "out"),
        "max_steps": PASSES * args.rollouts,
        "logging_steps": PASSES * args.every,
        "activation_checkpointing": False,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
    }
    assert recipe["per_device_train_batch_size"] == ROLLOUT
    assert recipe["num_ppo_epochs"] == PASSES
    assert recipe["max_completion_length"] == MAX_NEW_TOKENS
    tokenizer = AutoTokenizer.from_pretrained(places["start"])
    with prompts.open(encoding="utf-8") as lines:
        rows = [[{"role": "user", "content": json.loads(line)["prompt"]}] for line in lines]
    given: dict[str, Any] = {
        "model": str(places["start"]),
        "train_dataset": Dataset.from_dict({"prompt": rows}),
        "processing_class": tokenizer,
        "callbacks": [exam],
    }
    rewards, _ = load_rewards([str(places["reward"])], policy_tokenizer=tokenizer)
    if algorithm == "ppo":
        keys |= {key: yaml.safe_load(value) for key, value in (x.split("=") for x in args.set)}
        return PPOTrainer(args=PPOConfig(sample_steps=0, **keys), reward_funcs=rewards, **given)
    ours = ("num_ppo_epochs", "normalize_reward", "missing_eos_penalty")
    ours += ("critic_learning_rate", "center_values")
    penalty = recipe["missing_eos_penalty"]
    keys = {key: value for key, value in keys.items() if key not in ours}
    keys |= {"num_generations": GROUP, "num_iterations": PASSES}
    given["reward_funcs"] = as_the_recipe(rewards[0], places["reward"], tokenizer, penalty)
    if algorithm == "rloo":
        return RLOOTrainer(args=RLOOConfig(**keys), **given)
    return GRPOTrainer(args=GRPOConfig(**keys), **given)


def as_the_recipe(reward: Any, folder: Path, tokenizer: Any, penalty: float) -> Any:
    """The reward that PPO makes of a reward model, as a function for the others."""
    stats = read_stats(folder)
    assert stats is not None

    def score(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        ended = [bool(ids) and ids[-1] == tokenizer.eos_token_id for ids in completion_ids]
        scores = reward(**columns)
        return [
            (x - stats.mean) / stats.std - (0.0 if end else penalty)
            for x, end in zip(scores, ended, strict=True)
        ]

    return score


def train_elsewhere(
    places: dict[str, Any], prompts: Path, tuned: dict[str, Any], args: Any
) -> dict[str, Any]:
    """Run TRL 1.12's PPOTrainer in its own environment."""
    words: list[object] = ["--prompts", prompts, "--work", args.work / "out"]
    words += ["--rollouts", args.rollouts, "--every", args.every]
    for key, value in (places | tuned).items():
        words += ["--" + key.replace("_", "-"), value]
    script = Path(__file__).with_name("learning_trl112.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        python(script, *words, "--out", path, interpreter=args.old_python)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds, least and most, and how often each beats its start."""
    lines = ["what | start | end | gain, least | beats start | sampled, from - to | KL | CPU s"]
    names = [key for key in KEYS if key != "seed"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(run[name] for name in names), []).append(run)
    for what, chosen in sorted(groups.items()):
        ends = [r["right"][-1] for r in chosen]
        gains = [r["right"][-1] - r["right"][0] for r in chosen]
        lines.append(
            f"{' '.join(map(str, what)).strip()} | {mean(r['right'][0] for r in chosen):.3f} | "
            f"{mean(ends):.3f} ({min(ends):.3f}-{max(ends):.3f}) | {min(gains):.3f} | "
            f"{sum(gain > 0 for gain in gains)} of {len(gains)} | "
            f"{mean(r['begin']['right_sampled'] for r in chosen):.3f} - "
            f"{mean(r['end']['right_sampled'] for r in chosen):.3f} | "
            f"{mean(r['end']['kl'] for r in chosen):.2f} | "
            f"{mean(r['seconds'] for r in chosen):.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
