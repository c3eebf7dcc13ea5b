"""What a model's folder holds: config, tokenizer and adapter, found and loaded without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alignment.errors import ConfigError
from alignment.runs import (
    ADAPTER_CONFIG,
    CHAT_TEMPLATE,
    MODEL_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    checkpoints,
    holds_weights,
    load_run,
)
from alignment.settings.reward_spec import parse_reward
from data_tools.reading.network import reach_hub

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

DEFAULT_REVISION = "main"


class Adapter(NamedTuple):
    """What an adapter's config says of it: its base, the base's revision, PEFT's task type."""

    base: str
    revision: str | None = None
    task: str | None = None


class Place(NamedTuple):
    """Where something is loaded from: a folder or a hub name, and the revision there."""

    path: str
    revision: str


def absolute_place(path: str) -> str:
    """A model's folder by its absolute path, so that an adapter finds its base from anywhere."""
    return str(Path(path).absolute()) if Path(path).is_dir() else path


def check_causal_model(path: str, *, role: str) -> None:
    """The same as `check_model`, for a model that is to generate text or learn to.

    Raises:
        ConfigError: It cannot be loaded, or is a reward model, whose language head is gone.
    """
    check_model(path, role=role)
    adapter = read_adapter(path)
    heads = [adapter.task] if adapter is not None else _architectures(path)
    for head in heads:
        if head is not None and (head == "SEQ_CLS" or head.endswith("ForSequenceClassification")):
            raise ConfigError(
                f"{role}: {path}: {head} scores answers and cannot generate any",
                "name a run of sft, or the language model that it was trained from",
            )


def _architectures(path: str) -> list[str]:
    """The classes that a config in a folder names; none if it is not on this machine."""
    file = Path(path) / MODEL_CONFIG
    if not file.is_file():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8")).get("architectures") or [])
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{file}: not a model's config ({error})", "fetch it again") from error


def check_model(path: str, *, role: str) -> None:
    """Check that a model can be loaded: a whole one, an adapter whose base is there, a hub name.

    Args:
        path: A folder or a hub name.
        role: Begins the message of an error.

    Raises:
        ConfigError: It cannot.
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
            "finish it with --resume, or give one of its checkpoints",
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


def check_reward_model(path: str, *, role: str = "reward_model") -> None:
    """Check that a reward is a model that can be loaded, not a function or a URL.

    Raises:
        ConfigError: It is not.
    """
    reward = parse_reward(path, role=role)
    if not reward.is_model:
        raise ConfigError(
            f"{role}: {path}: {reward.kind}, and only a reward model can be used here",
            "name a run of rm",
        )
    check_model(path, role=role)


def read_adapter(path: str) -> Adapter | None:
    """Read what the adapter in a folder is; None if `path` is not an adapter's folder.

    Raises:
        ConfigError: The adapter's config cannot be read.
    """
    file = Path(path) / ADAPTER_CONFIG
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        base = str(config["base_model_name_or_path"])
        return Adapter(base, config.get("revision"), config.get("task_type"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: not an adapter's config ({error})") from error


def adapter_base(path: str) -> str | None:
    """The model that the adapter in `path` belongs to; None if `path` is not an adapter's folder.

    Raises:
        ConfigError: The adapter's config cannot be read.
    """
    adapter = read_adapter(path)
    return None if adapter is None else adapter.base


def weights_place(path: str, revision: str = DEFAULT_REVISION) -> Place:
    """Where the whole model is: the base of an adapter, else `path` itself.

    Args:
        path: A folder or a hub name.
        revision: Of the whole model, if the adapter does not name the one it was trained on.
    """
    adapter = read_adapter(path)
    if adapter is None:
        return Place(path, revision)
    return Place(adapter.base, adapter.revision or revision)


def tokenizer_place(path: str, revision: str = DEFAULT_REVISION) -> Place:
    """Where a model's tokenizer is: an adapter without one of its own uses its base's."""
    if adapter_base(path) is None or (Path(path) / TOKENIZER_CONFIG).is_file():
        return Place(path, revision)
    return tokenizer_place(*weights_place(path, revision))


def tokenizer_home(path: str) -> str:
    """The model whose tokenizer a model uses, by its path."""
    return tokenizer_place(path).path


def load_tokenizer(
    path: str, *, revision: str = DEFAULT_REVISION, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; it pads with its EOS if it has no padding token.

    Args:
        path: A folder or a hub name.
        revision: Of the model, or of its base if the tokenizer is that one's and the adapter does
            not name another.
        trust_remote_code: Whether code beside the tokenizer may run.

    Raises:
        ConfigError: There is none, or the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    place = tokenizer_place(path, revision)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place.path, revision=place.revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{place.path}: no tokenizer: {first_line}",
            f"give a folder with {TOKENIZER}, or a hub name (behind a slow network: HF_ENDPOINT)",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_padding_tokenizer(
    path: str, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model that reads batches as it is: without a token to pad, it cannot.

    Raises:
        ConfigError: There is none, it names neither a padding nor an EOS token, or the hub cannot
            be reached.
    """
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"{path}: the tokenizer has no pad token and no end token, so batches cannot be padded",
            f"set eos_token in its {TOKENIZER_CONFIG}",
        )
    return tokenizer


def has_chat_template(path: str) -> bool:
    """Whether the tokenizer of a model has a chat template, from its files if it is in a folder."""
    home = tokenizer_home(path)
    folder = Path(home)
    if not folder.is_dir():
        return load_tokenizer(home).chat_template is not None
    config = folder / TOKENIZER_CONFIG
    if (folder / CHAT_TEMPLATE).is_file() or (folder / "chat_template.json").is_file():
        return True
    return config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))


def load_config(
    path: str, *, revision: str = DEFAULT_REVISION, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Load the config of a model; of an adapter, that of its base.

    Args:
        path: A folder or a hub name.
        revision: Of the whole model.
        trust_remote_code: Whether code beside the model may run.
    """
    from transformers import AutoConfig

    place = weights_place(path, revision)
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        place.path, revision=place.revision, trust_remote_code=trust_remote_code
    )
    return config


def hub_commit(name: str) -> str | None:
    """The commit of a hub model that was loaded; None for a folder.

    The hub's cache keeps the files of a commit in a folder of its name.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return None
    found = try_to_load_from_cache(name, MODEL_CONFIG)
    return Path(found).parent.name if isinstance(found, str) else None


def _is_on_hub(name: str) -> bool:
    """Whether the hub, or its cache on this machine, has a model of that name."""
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        is_cached = isinstance(try_to_load_from_cache(name, MODEL_CONFIG), str)
        is_reached = reach_hub()  # also of a cached model: the rest of it is asked for later
        return is_cached or (is_reached and file_exists(name, MODEL_CONFIG))
    except (HFValidationError, HfHubHTTPError, OSError):
        return False
