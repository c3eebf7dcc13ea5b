"""A model with shapes but no numbers: what is wrong with its files is found before it is loaded.

Loading it reads the headers of the weights only, in milliseconds, so whatever transformers would
find wrong, rename or fill with random numbers is known before a gigabyte is read.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging as reports

from alignment.errors import ConfigError
from alignment.models.folders import DEFAULT_REVISION

_REMEDY = "fetch or save the model again"


def check_weights(
    kind: Any,
    path: str,
    *,
    revision: str = DEFAULT_REVISION,
    trust_remote_code: bool = False,
    new_head: bool = False,
    **options: Any,
) -> PreTrainedModel | None:
    """See that a whole model's weights fit its config; without that, the rest would be random.

    Args:
        kind: The auto class that will load it.
        path: A folder or a hub name.
        revision: Of the model.
        trust_remote_code: Whether code beside the model may run.
        new_head: Whether its head is to be new, so that the weights have none.
        **options: For the config.

    Returns:
        The model without numbers; None for a quantized one, which has other weights than it says.

    Raises:
        ConfigError: The config is of an unknown type, the weights are torn, of other shapes, or
            some are missing.
    """
    config = _config(path, revision=revision, trust_remote_code=trust_remote_code)
    if is_deepspeed_zero3_enabled() or "quantization_config" in config.to_dict():
        return None
    try:
        with _silent():
            model, info = kind.from_pretrained(
                path,
                revision=revision,
                trust_remote_code=trust_remote_code,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except SafetensorError as error:
        raise ConfigError(f"{path}: its weights cannot be read: {error}", _REMEDY) from error
    missing = sorted(info["missing_keys"])
    if new_head:
        missing = [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]
    if info["mismatched_keys"]:
        name, found, wanted = min(info["mismatched_keys"], key=lambda entry: str(entry[0]))
        raise ConfigError(
            f"{path}: its weights do not fit its config: {name} is {list(found)}, wanted "
            f"{list(wanted)}",
            _REMEDY,
        )
    if missing:
        raise ConfigError(
            f"{path}: {len(missing)} weights are missing, the first of them {missing[0]}", _REMEDY
        )
    found_model: PreTrainedModel = model
    return found_model


@contextmanager
def _silent() -> Iterator[None]:
    """Without the progress and the report of transformers: the errors here say what is wrong."""
    shown, verbosity = reports.is_progress_bar_enabled(), reports.get_verbosity()
    reports.disable_progress_bar()
    reports.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        reports.set_verbosity(verbosity)
        if shown:
            reports.enable_progress_bar()


def _config(path: str, *, revision: str, trust_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    except (ValueError, KeyError) as error:
        if Path(path).is_dir() or "model type" in str(error):
            line = re.split(r"(?<=[.])\s", str(error).strip())[0]
            raise ConfigError(
                f"{path}: {line}", "a newer transformers may know it, or it is no model"
            ) from error
        raise
