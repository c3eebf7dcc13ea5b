"""What transformers renamed: we say the new word, TRL and PEFT still say the old one."""

import inspect
import warnings

#: What PEFT 0.21 (PeftModel) and TRL 1.16 (generation, the reference of DPO) ask of a model.
_THEIRS = "`(is_gradient_checkpointing|gradient_checkpointing_(en|dis)able)` is deprecated"


def ignore_old_words_of_others() -> None:
    """Leave out the warnings that nobody but the authors of TRL and PEFT can act on."""
    warnings.filterwarnings("ignore", _THEIRS, FutureWarning)


def cache_word() -> str:
    """The argument and the output that hold the KV cache: `cache` since transformers 5.24."""
    from transformers import GenerationMixin

    known = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    return "cache" if "cache" in known else "past_key_values"
