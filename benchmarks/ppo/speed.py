"""CPU seconds of a PPO update (generate, score, update): ours beside TRL 1.12's PPOTrainer.

    python -m venv /tmp/trl112 && /tmp/trl112/bin/pip install torch==2.13.0 "trl==1.12.*" peft
    python benchmarks/ppo/speed.py --old-python /tmp/trl112/bin/python --updates 6 --repeats 1

Two settings: `equal`, prompts of `--prompt` tokens and responses of `--response`, and `mixed`,
prompts of 8 to `--prompt` tokens and responses that end by EOS, with a chance of one in 20 at each
token. Both sides: the same random Llama as policy, reference, reward model and critic, the same
prompts, rollout, micro-batches, epochs, response length and precision, one after the other in
turns, the same torch and transformers. TRL 1.12 has the four-model form alone; ours is measured in
it too (`model`) and with its default critic (`head`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
LENGTHS = ("equal", "mixed")
END = 1 / 20  # chance of EOS at each token of the mixed setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old-python", default=None, help="python with trl 1.12")
    parser.add_argument("--side", choices=["trl112", "head", "model"], help="(internal)")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--folder", type=Path, help="(internal)")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--rollout", type=int, default=32)
    parser.add_argument("--micro", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--response", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.side is None:
        compare(args)
    elif args.side == "trl112":
        run_trl112(args)
    else:
        run_ours(args)


def compare(args: argparse.Namespace) -> None:
    """Run the sides in turns in each setting and print medians and ratios."""
    result: dict[str, Any] = {lengths: compare_at(args, lengths) for lengths in args.lengths}
    result["settings"] = {key: value for key, value in vars(args).items() if isinstance(value, int)}
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def compare_at(args: argparse.Namespace, lengths: str) -> dict[str, Any]:
    sides = ["model", "head"] + (["trl112"] if args.old_python else [])
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    tokens: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        make_models(args, Path(folder), lengths=lengths)
        for _ in range(args.repeats):
            for side in sides:
                found = run_side(args, side, folder, lengths)
                seconds[side] += found["seconds"]
                tokens[side] += found["tokens"]
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    result: dict[str, Any] = {"seconds": seconds, "median": medians, "response_tokens": tokens}
    if "trl112" in medians:
        result["ratio"] = {s: medians[s] / medians["trl112"] for s in ("model", "head")}
    return result


def run_side(args: argparse.Namespace, side: str, folder: str, lengths: str) -> dict[str, Any]:
    python = args.old_python if side == "trl112" else sys.executable
    keys = ("rollout", "micro", "prompt", "response", "epochs", "updates", "vocab")
    command = [python, __file__, "--side", side, "--folder", folder, "--lengths", lengths]
    for key in keys:
        command += [f"--{key}", str(vars(args)[key])]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    told = ", ".join(f"{t:.2f}" for t in found["seconds"])
    length = statistics.mean(found["tokens"])
    print(f"{lengths} {side}: {told} s; {length:.1f} tokens", file=sys.stderr, flush=True)
    return found


def make_models(args: argparse.Namespace, folder: Path, *, lengths: str) -> None:
    """A random policy and a reward model of the same shape, and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(args.vocab - 3))]
    words_of = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    words_of.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_of, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=4 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    policy = LlamaForCausalLM(config)
    if lengths == "mixed":
        raise_eos(policy, END)
    policy.save_pretrained(folder / "policy")
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    for name in ("policy", "reward"):
        tokenizer.save_pretrained(folder / name)


def raise_eos(policy: Any, chance: float) -> None:
    """Give EOS about this chance at each token, by a direction that all hidden states share."""
    import math

    import torch

    embedding = policy.get_input_embeddings().weight  # tied: its rows are those of the LM head
    with torch.no_grad():
        embedding[:, 0] = 1.0
        ids = torch.randint(3, len(embedding), (8, 64))
        states = policy.base_model(ids).last_hidden_state
        logits = policy.lm_head(states)
        gap = torch.logsumexp(logits, dim=-1).mean() - logits[..., 1].mean()
        wanted = gap + math.log(chance / (1 - chance))
        embedding[1, 0] += wanted / states[..., 0].mean()


def prompts(args: argparse.Namespace) -> list[str]:
    import random

    rng = random.Random(0)
    count = args.rollout * (args.updates + 2)
    words = range(args.vocab - 3)
    least = 8 if args.lengths == ["mixed"] else args.prompt
    sizes = [rng.randint(least, args.prompt) for _ in range(count)]
    return [" ".join(f"w{rng.choice(words)}" for _ in range(size)) for size in sizes]


class Clock:
    """CPU seconds between the ends of updates; the first, which warms up, is left out.

    One thread each, so on an idle machine these are the seconds of a clock on the wall; on a busy
    one they still compare.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.ends: list[float] = []
        self.count = 0

    def tick(self) -> None:
        """Count an optimizer step."""
        self.count += 1
        if self.count % self.steps == 0:
            self.ends.append(time.process_time())

    def report(self, tokens: list[float]) -> None:
        """Print the seconds of each update but the first, and the mean lengths of all."""
        seconds = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        print(json.dumps({"seconds": seconds, "tokens": tokens}))


def clock_callback(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Tick(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    return Tick()


def common(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": args.micro,
        "gradient_accumulation_steps": args.rollout // args.micro,
        "num_ppo_epochs": args.epochs,
        "learning_rate": 0.0,  # lengths stay alike on both sides, and the work is the same
        "temperature": 1.0,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "activation_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def run_ours(args: argparse.Namespace) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer

    from alignment.ppo.config import PPOConfig
    from alignment.ppo.rewards import load_rewards
    from alignment.ppo.trainer import PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(args.folder / "policy")
    rewards, _ = load_rewards([str(args.folder / "reward")], policy_tokenizer=tokenizer)
    clock = Clock(args.epochs)
    trainer = PPOTrainer(
        model=str(args.folder / "policy"),
        args=PPOConfig(
            str(args.folder / "out"),
            max_completion_length=args.response,
            max_steps=args.epochs * (args.updates + 1),
            critic=args.side,
            sample_steps=0,
            **common(args),
        ),
        reward_funcs=rewards,
        train_dataset=Dataset.from_dict({"prompt": prompts(args)}),
        processing_class=tokenizer,
        callbacks=[clock_callback(clock)],
    )
    trainer.train()
    logs = trainer.state.log_history
    clock.report([line["response/length"] for line in logs if "response/length" in line])


def run_trl112(args: argparse.Namespace) -> None:
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer = AutoTokenizer.from_pretrained(args.folder / "policy", padding_side="left")
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(args.folder / "policy") for _ in range(2)
    )
    reward, critic = (
        AutoModelForSequenceClassification.from_pretrained(args.folder / "reward", num_labels=1)
        for _ in range(2)
    )
    clock, tokens = Clock(1), []
    cut = ppo_trainer.truncate_response

    def counted(stop: int, pad: int, responses: Any) -> Any:
        kept = cut(stop, pad, responses)
        tokens.append((kept != pad).sum(dim=1).float().mean().item())
        return kept

    ppo_trainer.truncate_response = counted
    trainer = PPOTrainer(
        args=PPOConfig(
            str(args.folder / "out"),
            response_length=args.response,
            total_episodes=args.rollout * (args.updates + 1),
            num_mini_batches=1,
            stop_token="eos",
            missing_eos_penalty=1.0,
            num_sample_generations=0,
            **common(args),
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=critic,
        train_dataset=Dataset.from_dict(
            {"input_ids": [tokenizer(p)["input_ids"] for p in prompts(args)]}
        ),
        callbacks=[clock_callback(clock)],
    )
    trainer.train()
    clock.report(tokens)


if __name__ == "__main__":
    main()
