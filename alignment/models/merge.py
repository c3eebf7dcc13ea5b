"""An adapter and its base as one whole model, checked to answer as the two did."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from alignment.errors import ConfigError
from alignment.runs.files import ADAPTER_CONFIG

#: Largest change of a logit, relative to their mean size, by dtype: rounding and no more.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def merge(adapter: Path, output_dir: Path, *, overwrite: bool = False) -> float:
    """Write the whole model in the base's own dtype; the largest relative change of its logits.

    Raises:
        ConfigError: no adapter there, a used output folder, or logits that moved.
    """
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise ConfigError(f"{adapter}: no adapter here: no {ADAPTER_CONFIG}", "give a LoRA run")
    if output_dir.exists() and any(output_dir.iterdir()) and not overwrite:
        raise ConfigError(f"{output_dir}: not empty", "choose another folder, or give --overwrite")
    model, tokenizer = _load(adapter), AutoTokenizer.from_pretrained(adapter)
    probe = torch.arange(1, min(33, model.config.vocab_size)).unsqueeze(0)  # (1, T)
    before = _logits(model, probe)
    merged = model.merge_and_unload(safe_merge=True)
    after = _logits(merged, probe)
    change = ((after - before).abs().max() / before.abs().mean()).item()
    if not change <= _TOLERANCE[merged.dtype]:  # not a number fails too
        raise ConfigError(
            f"{adapter}: merging moves the logits by {change:.3g} of their size",
            "merge into a base of higher precision",
        )
    merged.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return change


def _load(adapter: Path) -> Any:
    config: Any = PeftConfig.from_pretrained(str(adapter))
    base = config.base_model_name_or_path
    if config.task_type == "SEQ_CLS":
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


def _logits(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=input_ids).logits
    return logits.float()
