"""What every algorithm starts from in `learning_demo.py`: the demo's own stages, seed by seed.

The instruction data know nothing of the tastes, so both share base, pt and sft of a seed; the
preference pairs do, so each taste has a reward model of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = REPOSITORY / "recipes" / "demo"
TASTES = {"courteous": "alignment.demo.rule:score", "brief": "alignment.demo.rule:score_brief"}


def prepare(seed: int, work: Path, *, tastes: list[str]) -> None:
    """Run the demo's entry points for what is missing of a seed.

    Args:
        seed: Of the base model and of every stage; the data are the same for all seeds.
        work: Gets `data-TASTE`, and `seedN` with `base`, `pt`, `sft` and `rm-TASTE`.
        tastes: Of the reward models.
    """
    for taste in tastes:
        make_data(taste, work)
    folder, data = work / f"seed{seed}", work / "data-courteous"
    if not (folder / "base").exists():
        align("init-model", "tiny", folder / "base", "--seed", seed)
    stages = [
        ("pt", "pt", folder / "base", data / "corpus.jsonl", None),
        ("sft", "sft", folder / "pt", data / "sft.jsonl", None),
    ]
    for taste in tastes:
        data = work / f"data-{taste}"
        pairs = (data / "pairs.jsonl", data / "held_out_pairs.jsonl")
        stages.append(("rm", f"rm-{taste}", folder / "sft", *pairs))
    for stage, name, start, train, held_out in stages:
        if (folder / name / "model.safetensors").exists():
            continue
        words = ["--model_name_or_path", start, "--train_data", train, "--seed", seed]
        words += ["--output_dir", folder / name, "--report_to", "none"]
        words += ["--eval_data", held_out] if held_out else []
        align(stage, RECIPES / f"{stage}.yaml", *words, "--overwrite")


def make_data(taste: str, work: Path) -> None:
    folder = work / f"data-{taste}"
    if (folder / "pairs.jsonl").exists():
        return
    python("-m", "alignment.demo.generate", folder, "--taste", taste)
    align("data", "convert", folder / "alpaca.json", "-o", folder / "sft.jsonl")
    pairs = [folder / name for name in ("huozi.csv", "huozi.json", "rlhf.jsonl")]
    align("data", "convert", *pairs, "-o", folder / "pairs.jsonl")


def align(*words: object) -> None:
    python("-m", "alignment", *words)


def python(*words: object, interpreter: str = sys.executable) -> None:
    """Run Python with one thread, offline, on this repository; stop where it fails."""
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [interpreter, *map(str, words)]
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
