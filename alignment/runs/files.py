"""The names of the files that models and runs consist of, and the order of a run's checkpoints.

Imports nothing heavy, so that settings, checks and the command line use the same names as training.
"""

import re
from pathlib import Path

# A run's folder.
RECORD = "run.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
REWARD_STATS = "reward_stats.json"

# What a checkpoint of a run adds to a model.
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
SCHEDULER_STATE = "scheduler.pt"
#: One of these holds the optimizer: Trainer's own, DeepSpeed's or FSDP's.
OPTIMIZER_STATES = (
    "optimizer.pt",
    "optimizer.bin",
    "global_step*",
    "optimizer_*",
    "pytorch_model_fsdp*",
)
VALUE_HEAD = "value_head.safetensors"

# A model's folder, as transformers and PEFT name its files.
MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
NAMED_CHAT_TEMPLATES = "additional_chat_templates"

WEIGHT_SUFFIXES = {".bin", ".safetensors"}
#: Files that decide what a model does.
_MODEL_SUFFIXES = WEIGHT_SUFFIXES | {".jinja", ".json", ".model", ".py", ".tiktoken", ".txt"}
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoint_name(step: int) -> str:
    """The name of the folder that holds the checkpoint of an optimizer step."""
    return f"checkpoint-{step}"


def checkpoint_step(folder: Path) -> int | None:
    """The optimizer step of a checkpoint, None if the folder's name is not that of one."""
    match = _CHECKPOINT.fullmatch(folder.name)
    return None if match is None else int(match[1])


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints in a run's folder by step, oldest first, whole or not."""
    # By number: as text, checkpoint-9 would come after checkpoint-10.
    steps = [(checkpoint_step(path), path) for path in run.glob("checkpoint-*") if path.is_dir()]
    return [path for step, path in sorted((s, p) for s, p in steps if s is not None)]


def run_folder(model: Path) -> Path:
    """The folder of the run that a model belongs to: that above a checkpoint, else its own."""
    return model.parent if checkpoint_step(model) is not None else model


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that decide what the model does, sorted by path."""
    found = [*folder.glob("[!.]*"), *folder.glob(f"{NAMED_CHAT_TEMPLATES}/[!.]*")]
    return sorted(path for path in found if path.suffix in _MODEL_SUFFIXES and path.is_file())


def holds_weights(folder: Path) -> bool:
    """Whether a folder has the weights of a model or an adapter."""
    return any(any(folder.glob(pattern)) for pattern in WEIGHTS)
