"""Peak memory of LoRA PPO with everything on one base, beside LoRA SFT on the same model and batch.

    python ../shared/tools/smollm2.py /tmp/smollm2      # or any folder with a causal model
    python benchmarks/ppo/memory.py --model /tmp/smollm2

Each side runs in a process of its own; what is compared is the peak resident set less what the
process held once its libraries were imported, so the libraries flatter nobody. A third side, four
models in full (`critic: model`), shows what sharing saves.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SIDES = ("sft", "ppo-head", "ppo-lora", "ppo-four-models")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--side", choices=SIDES, help="(internal)")
    parser.add_argument("--folder", type=Path, help="(internal)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.side is not None:
        run(args)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in ("reward", *SIDES):
            if side == "reward":
                save_reward(args.model, Path(folder))
                continue
            found[side] = run_side(args, side, folder)
            print(f"{side}: {found[side]:.0f} MB", file=sys.stderr, flush=True)
    result = {"peak_mb": found, "ratio_to_sft": {s: found[s] / found["sft"] for s in SIDES}}
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def run_side(args: argparse.Namespace, side: str, folder: str) -> float:
    command = [sys.executable, __file__, "--side", side, "--folder", folder]
    for key in ("model", "batch", "prompt", "response"):
        command += [f"--{key}", str(vars(args)[key])]
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side}:\n{done.stderr[-3000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def lora(**keys: Any) -> Any:
    from peft import LoraConfig

    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return LoraConfig(r=16, lora_alpha=32, target_modules=modules, **keys)


def save_reward(model: Path, folder: Path) -> None:
    """An untrained LoRA reward model: its memory is that of a trained one."""
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    config = lora(task_type="SEQ_CLS", modules_to_save=["score"])
    get_peft_model(base, config).save_pretrained(folder / "reward")
    AutoTokenizer.from_pretrained(model).save_pretrained(folder / "reward")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(args: argparse.Namespace) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from alignment.ppo.config import PPOConfig
    from alignment.ppo.rewards import load_rewards
    from alignment.ppo.trainer import PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    libraries = peak_mb()
    keys: dict[str, Any] = {
        "output_dir": str(args.folder / "out"),
        "per_device_train_batch_size": args.batch,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "activation_checkpointing": True,
        "model_init_kwargs": {"dtype": "float32"},
    }
    word = tokenizer.encode("hello")[0]
    prompt = tokenizer.decode([word] * args.prompt)
    if args.side == "sft":
        rows = {"input_ids": [[word] * (args.prompt + args.response)] * args.batch * 2}
        trainer: Any = SFTTrainer(
            model=str(args.model),
            args=SFTConfig(max_steps=2, **keys),
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            peft_config=lora(),
        )
    else:
        four = args.side == "ppo-four-models"
        critic = "model" if four else args.side.removeprefix("ppo-")
        rewards, _ = load_rewards([str(args.folder / "reward")], policy_tokenizer=tokenizer)
        eos = tokenizer.eos_token_id
        config = PPOConfig(
            max_steps=2,
            num_ppo_epochs=2,
            max_completion_length=args.response,
            generation_kwargs={"suppress_tokens": [eos]},
            critic=critic,
            share_base=not four,
            sample_steps=0,
            **keys,
        )
        trainer = PPOTrainer(
            model=str(args.model),
            args=config,
            reward_funcs=rewards,
            train_dataset=Dataset.from_dict({"prompt": [prompt] * args.batch * 2}),
            processing_class=tokenizer,
            peft_config=None if four else lora(),
        )
    torch.set_num_threads(1)
    trainer.train()
    print(peak_mb() - libraries)


if __name__ == "__main__":
    main()
