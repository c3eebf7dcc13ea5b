"""What transformers renamed: we say the new word, TRL and PEFT still say the old one."""

import inspect
import logging
import warnings

#: What PEFT 0.21 (PeftModel) and TRL 1.16 (generation, the reference of DPO) ask of a model.
_THEIRS = "`(is_gradient_checkpointing|gradient_checkpointing_(en|dis)able)` is deprecated"


def quiet_libraries() -> None:
    """Leave out the warnings that nobody but the authors of the libraries can act on."""
    warnings.filterwarnings("ignore", _THEIRS, FutureWarning)
    # on a CPU with AVX-512 for bf16 every import of PEFT would ask for a kernel from the hub
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def cache_word() -> str:
    """The argument and the output that hold the KV cache: `cache` since transformers 5.24."""
    from transformers import GenerationMixin

    known = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    return "cache" if "cache" in known else "past_key_values"
