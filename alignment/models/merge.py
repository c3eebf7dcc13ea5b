"""An adapter and its base as one whole model, checked to answer as the two did."""

from pathlib import Path
from typing import Any

import torch

from alignment.errors import ConfigError
from alignment.models.classifier import load_adapter_classifier
from alignment.models.end_tokens import set_end_tokens
from alignment.models.folders import load_tokenizer, read_adapter
from alignment.models.policy import load_causal_model
from alignment.runs import ADAPTER_CONFIG

#: Largest change of a logit, relative to their mean size, by dtype: rounding and no more.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def merge(folder: Path, output_dir: Path, *, overwrite: bool = False) -> float:
    """Write the adapter in a folder, merged into its base, in the base's own dtype.

    Returns:
        The largest change of a logit, relative to their mean size.

    Raises:
        ConfigError: There is no adapter, the output folder is used, or the logits changed.
    """
    adapter = read_adapter(str(folder))
    if adapter is None:
        raise ConfigError(f"{folder}: no adapter here: no {ADAPTER_CONFIG}", "give a LoRA run")
    if output_dir.exists() and any(output_dir.iterdir()) and not overwrite:
        raise ConfigError(f"{output_dir}: not empty", "choose another folder, or give --overwrite")
    load = load_adapter_classifier if adapter.task == "SEQ_CLS" else load_causal_model
    model: Any = load(str(folder)).eval()
    tokenizer = load_tokenizer(str(folder))
    probe = torch.arange(1, min(33, model.config.vocab_size)).unsqueeze(0)  # (1, T)
    before = _logits(model, probe)
    merged = model.merge_and_unload(safe_merge=True)
    after = _logits(merged, probe)
    change = ((after - before).abs().max() / before.abs().mean()).item()
    if not change <= _TOLERANCE[merged.dtype]:  # not a number fails too
        raise ConfigError(
            f"{folder}: merging changes the logits by {change:.3g} of their size",
            "merge into a base of higher precision",
        )
    set_end_tokens(merged, tokenizer)  # the adapter was trained with this tokenizer, not its base
    merged.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return change


def _logits(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Logits of a batch in float32: (B, T, V), (B, 1) of a classifier."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=input_ids).logits
    return logits.float()
