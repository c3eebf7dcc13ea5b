"""See that a LoRA adapter finds its modules, on a model without numbers."""

import copy
import difflib
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.utils.error import NoMatchingPeftModuleError
from transformers import PreTrainedModel

from alignment.errors import ConfigError

_NAMED = 8  # modules in a message


def check_targets(skeleton: PreTrainedModel, adapter: LoraConfig) -> None:
    """Put a new adapter on a model without numbers, which it changes.

    Raises:
        ConfigError: A name in lora_target_modules or lora_modules_to_save is no module of it.
    """
    names = {name for name, _ in skeleton.named_modules()} - {""}
    for key, wanted in (
        ("lora_target_modules", adapter.target_modules),
        ("lora_modules_to_save", adapter.modules_to_save),
    ):
        for name in [] if wanted is None or isinstance(wanted, str) else wanted:
            if not any(f".{known}".endswith(f".{name}") for known in names):
                raise _missing(key, name, names)
    parameters = {name for name, _ in skeleton.named_parameters()}
    for name in adapter.target_parameters or []:
        if not any(f".{known}".endswith(f".{name}") for known in parameters):
            raise _missing("lora_target_parameters", name, parameters, kind="parameter")
    try:
        get_peft_model(skeleton, copy.deepcopy(adapter), low_cpu_mem_usage=True)
    except NoMatchingPeftModuleError as error:
        raise _missing("lora_target_modules", adapter.target_modules, names) from error


def _missing(key: str, name: Any, names: set[str], *, kind: str = "module") -> ConfigError:
    ends = {known.rpartition(".")[2] for known in names}
    near = difflib.get_close_matches(str(name), ends, n=1)
    known = ", ".join(sorted(end for end in ends if end and not end.isdigit())[:_NAMED])
    hint = f"did you mean '{near[0]}'?" if near else f"it has {known}, ..."
    return ConfigError(f"{key}: the model has no {kind} {name!r}", hint)
