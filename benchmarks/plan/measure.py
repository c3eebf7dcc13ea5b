"""The memory that `align plan` estimates for a stage, and what the stage took: commands on a CPU.

    python ../shared/tools/smollm2.py /tmp/smollm2      # or any folder with a causal model
    python benchmarks/plan/measure.py --model /tmp/smollm2/HuggingFaceTB/SmolLM2-135M-Instruct

Each stage runs three steps in a process of its own. Measured is the peak resident set while it
trains, less the resident set after the libraries are imported and the same stage on a toy model has
warmed them up, so that code, threads and caches are in neither number.
"""

import argparse
import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from alignment.registry import STAGES  # noqa: E402

#: Freed blocks over 128 KiB go back to the system at once, as in glibc before it adapts; otherwise
#: the resident set has what the program freed, and the peak depends on chance.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
_QUIET = ("--report_to=none", "--save_strategy=no", "--disable_tqdm=true", "--logging_steps=100")
_SIZES = {
    "tiny": {"rows": 32, "length": 448, "prompt": 192, "response": 192},
    "smollm2": {"rows": 4, "length": 160, "prompt": 64, "response": 64},
}
_LORA = ("--use_peft", "--lora_target_modules=all-linear")
_OFF = ("--activation_checkpointing=false",)
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    **{f"tiny {stage} full": ("tiny", stage, _OFF) for stage in STAGES},
    **{f"tiny {stage} LoRA": ("tiny", stage, (*_OFF, *_LORA)) for stage in STAGES},
    "tiny ppo full, critic model": ("tiny", "ppo", (*_OFF, "--critic=model")),
    "tiny sft full, eager": ("tiny", "sft", (*_OFF, "--attn_implementation=eager")),
    "tiny sft full, accumulation": ("tiny", "sft", (*_OFF, "--gradient_accumulation_steps=2")),
    "smollm2 sft full": ("smollm2", "sft", _OFF),
    "smollm2 sft full, checkpointing": ("smollm2", "sft", ()),
    "smollm2 sft LoRA": ("smollm2", "sft", (*_OFF, *_LORA)),
    "smollm2 sft LoRA, checkpointing": ("smollm2", "sft", _LORA),
    "smollm2 sft LoRA, bfloat16": ("smollm2", "sft", (*_OFF, *_LORA, "--dtype=bfloat16")),
    "smollm2 sft full, autocast": ("smollm2", "sft", (*_OFF, "--bf16=true", "--use_cpu")),
    "smollm2 dpo LoRA": ("smollm2", "dpo", (*_OFF, *_LORA)),
    "smollm2 dpo full, checkpointing": ("smollm2", "dpo", ()),
    "smollm2 rm LoRA": ("smollm2", "rm", (*_OFF, *_LORA)),
    "smollm2 ppo LoRA, critic head": ("smollm2", "ppo", (*_OFF, *_LORA)),
    "smollm2 ppo LoRA, critic lora": ("smollm2", "ppo", (*_OFF, *_LORA, "--critic=lora")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="the larger model; without it only tiny runs")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--default-malloc", action="store_true", help="use glibc's defaults")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(args.child[0], args.child[1:])
        return
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {"tiny": make_tiny(folder / "models" / "tiny")}
        if args.model:
            models["smollm2"] = args.model
        for case, (model, stage, flags) in CASES.items():
            if model not in models or args.only not in case:
                continue
            argv = command(models[model], model, stage, flags, folder)
            row = {"case": case, **compare(stage, argv, allocator=not args.default_malloc)}
            found.append(row)
            print(line_of(row), flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def line_of(row: dict[str, Any]) -> str:
    """The memory estimated, measured and their ratio, then the same of a step's seconds."""
    memory, step = (row["estimate"], row["measured"]), (row["estimate_step"], row["measured_step"])
    return (
        f"{row['case']:<34} {memory[0] / 2**20:7.0f} MiB {memory[1] / 2**20:7.0f} MiB "
        f"{memory[0] / memory[1]:5.2f}   {step[0]:6.1f} s {step[1]:6.1f} s {step[0] / step[1]:5.2f}"
    )


def make_tiny(folder: Path) -> Path:
    from alignment.models.presets import init_model

    return init_model("tiny", folder)


def command(model: Path, size: str, stage: str, flags: tuple[str, ...], folder: Path) -> list[str]:
    """The command line of a stage on rows that are as long as they can be."""
    at = _SIZES[size]
    data = folder / f"{size}-{stage}.jsonl"
    if not data.exists():
        write_rows(data, model, stage, at)
    words = [
        f"--model_name_or_path={model}",
        f"--train_data={data}",
        "--max_steps=3",
        f"--per_device_train_batch_size={at['rows']}",
        *_QUIET,
        *flags,
    ]
    if STAGES[stage].samples:
        kind = "lora" if "--use_peft" in flags else "full"
        reward = folder / "models" / f"{size}-reward-{kind}"
        if not reward.exists():
            save_reward(model, reward, lora=kind == "lora")
        eos = "--generation_kwargs=" + json.dumps({"suppress_tokens": [eos_of(model)]})
        return [
            *words,
            f"--max_completion_length={at['response']}",
            f"--reward_model={reward}",
            eos,
        ]
    return [*words, f"--max_length={at['length']}"]


def eos_of(model: Path) -> int:
    from transformers import AutoTokenizer

    return int(AutoTokenizer.from_pretrained(model).eos_token_id)


def write_rows(path: Path, model: Path, stage: str, at: dict[str, int]) -> None:
    """Rows just under the limit, every second one a word shorter, so that batches have padding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    word = " hello"
    each = len(tokenizer(word * 101)["input_ids"]) - len(tokenizer(word)["input_ids"])
    many = word * int((at["length"] - 48) * 100 / each)
    few = word * int((at["prompt"] - 16) * 100 / each)

    def row(many: str, few: str, label: bool) -> dict[str, Any]:
        return {
            "text": {"text": many * 2},
            "sft": {"prompt": "Say it.", "completion": many},
            "preference": {
                "prompt": "Say it.",
                "chosen": many,
                "rejected": many.removesuffix(word) + " bye",
            },
            "unpaired": {"prompt": "Say it.", "completion": many, "label": label},
            "prompt": {"prompt": few},
        }[STAGES[stage].kind]

    rows = row(many, few, True), row(many.removesuffix(word), few.removesuffix(word), False)
    text = "".join(json.dumps(one) + "\n" for one in rows)
    path.write_text(text * 2 * at["rows"], encoding="utf-8")


def save_reward(model: Path, folder: Path, *, lora: bool) -> None:
    """Save an untrained reward model; it takes the memory of a trained one."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base: Any = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    if lora:
        config = LoraConfig(r=16, task_type="SEQ_CLS", modules_to_save=["score"])
        base = get_peft_model(base, config)
    base.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)


def compare(stage: str, argv: list[str], *, allocator: bool) -> dict[str, Any]:
    """The estimate of `align plan` and what the stage took: bytes at the peak, seconds a step."""
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    environment = os.environ | quiet | (ALLOCATOR if allocator else {})
    plan = [sys.executable, "-m", "alignment", "plan", "--stage", stage, "--json", "--device=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        child = [sys.executable, __file__, "--child", folder, stage, *argv]
        measured = json.loads(_last_line(child, environment))
    planned = json.loads(_run([*plan, *argv], environment))
    (stage_plan,) = planned["stages"]
    step = stage_plan["time"][0]["step_seconds"]
    return {"estimate": stage_plan["total"], "estimate_step": step, **measured}


def _run(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-3000:]}")
    return done.stdout


def _last_line(words: list[str], environment: dict[str, str]) -> str:
    return _run(words, environment).strip().splitlines()[-1]


def measure(folder: str, argv: list[str]) -> None:
    """Train in this process; print the peak over the baseline."""
    import torch
    from transformers import TrainerCallback

    from alignment.training.job import Job
    from alignment.training.run import run_stage

    class Watch(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak
            began.clear()

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            began.append(time.perf_counter())

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            peaks.append(memory("VmHWM"))
            began.append(time.perf_counter())

    peaks: list[int] = []
    began: list[float] = []
    ours = Job.callbacks
    Job.callbacks = lambda self: [*ours(self), Watch()]  # type: ignore[method-assign]
    torch.set_num_threads(1)
    stage, words = argv[0], argv[1:]
    imported = memory("VmRSS")
    toy = Path(folder) / "toy"
    run_stage(stage, toy_words(stage, words, toy))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    baseline = memory("VmRSS")
    run_stage(stage, [*words, f"--output_dir={folder}/run"])
    shutil.rmtree(toy)
    found = {
        "measured": peaks[-1] - baseline,
        "measured_step": (began[-1] - began[0]) / (len(began) - 1),
        "baseline": baseline,
        "imported": imported,
    }
    print(json.dumps(found))


def toy_words(stage: str, words: list[str], folder: Path) -> list[str]:
    """The same stage on the tiny model, with a batch of one row."""
    model = make_tiny(folder / "model")
    at = {"rows": 2, "length": 96, "prompt": 32, "response": 8}
    write_rows(folder / "rows.jsonl", model, stage, at)
    changed = {
        "--model_name_or_path": model,
        "--train_data": folder / "rows.jsonl",
        "--per_device_train_batch_size": 2,
        "--max_length": 96,
        "--max_completion_length": 8,
        "--reward_model": folder / "reward",
    }
    if "reward_model" in STAGES[stage].roles:
        save_reward(model, folder / "reward", lora="--use_peft" in words)
    kept = []
    for word in words:
        name = word.partition("=")[0]
        kept.append(f"{name}={changed[name]}" if name in changed else word)
    return [*kept, f"--output_dir={folder}/run"]


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
