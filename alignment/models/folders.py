"""What a model folder holds, told from its files alone, in milliseconds and without torch."""

import json
from pathlib import Path
from typing import Any

from alignment.errors import ConfigError
from alignment.runs.files import (
    ADAPTER_CONFIG,
    CHAT_TEMPLATE,
    MODEL_CONFIG,
    TOKENIZER_CONFIG,
    checkpoints,
    holds_weights,
)
from alignment.runs.record import Run, load_run


def check_model(path: str, *, role: str) -> None:
    """See that `path` can be loaded: a whole model, an adapter whose base is there, a hub name.

    Raises:
        ConfigError: It cannot; the message names `role`.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.is_file() or not _is_on_hub(path):
            raise ConfigError(
                f"{role}: {path}: no such folder, and no hub model that can be reached",
                "give a model's folder, or a hub name (behind a slow network set HF_ENDPOINT)",
            )
        return
    run = load_run(folder)
    if run is not None and run.status != "finished":
        raise ConfigError(
            f"{role}: {path}: its {run.stage} run is {run.status}, not finished",
            "end it with --resume, or give one of its checkpoints",
        )
    if not any((folder / name).is_file() for name in (MODEL_CONFIG, ADAPTER_CONFIG)):
        found = checkpoints(folder)
        raise ConfigError(
            f"{role}: {path}: no model here: no {MODEL_CONFIG}, no {ADAPTER_CONFIG}",
            f"did you mean {found[-1]}?" if found else "give a model's folder",
        )
    if not holds_weights(folder):
        raise ConfigError(f"{role}: {path}: a config but no weights", "was it saved whole?")
    base = adapter_base(path)
    if base is not None:
        check_model(base, role=f"{role}: base of the adapter {path}")


def adapter_base(path: str) -> str | None:
    """The model that the LoRA adapter in `path` sits on; None where `path` is no adapter.

    Raises:
        ConfigError: The adapter's config cannot be read.
    """
    file = Path(path) / ADAPTER_CONFIG
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not an adapter's config ({error})") from error


def tokenizer_home(path: str) -> str:
    """The model whose tokenizer a model has: an adapter without one of its own has its base's."""
    base = adapter_base(path)
    if base is None or (Path(path) / TOKENIZER_CONFIG).is_file():
        return path
    return tokenizer_home(base)


def has_chat_template(path: str) -> bool:
    """Whether the tokenizer of a model has a chat template; an adapter's may be its base's."""
    home = tokenizer_home(path)
    folder = Path(home)
    if not folder.is_dir():
        return _has_loaded_template(home)
    config = folder / TOKENIZER_CONFIG
    if (folder / CHAT_TEMPLATE).is_file() or (folder / "chat_template.json").is_file():
        return True
    return config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))


def _has_loaded_template(name: str) -> bool:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name).chat_template is not None


def _is_on_hub(name: str) -> bool:
    """Whether the hub, or its cache on this machine, has a model of that name."""
    from huggingface_hub import constants, file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if isinstance(try_to_load_from_cache(name, MODEL_CONFIG), str):
            return True
        return not constants.HF_HUB_OFFLINE and file_exists(name, MODEL_CONFIG)
    except (HFValidationError, HfHubHTTPError, OSError):
        return False


def prompt_budget(run: Run, args: Any) -> int | None:
    """The tokens that a prompt of ppo may have for the response to fit the model's positions."""
    from transformers import AutoConfig

    path = run.parents["model"].path
    revision = run.settings.get("model_revision", {"value": "main"})["value"]
    config = AutoConfig.from_pretrained(
        adapter_base(path) or path, revision=revision, trust_remote_code=args.trust_remote_code
    )
    positions = config.get_text_config().to_dict().get("max_position_embeddings")
    return None if positions is None else int(positions) - int(args.max_completion_length)
