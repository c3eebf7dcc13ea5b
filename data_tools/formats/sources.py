"""Names of sources: LLaMA-Factory's `dataset_info.json@name`, and weights in a mix (`path:0.3`)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import ConfigError, DataError
from data_tools.formats.detect import BY_NAME
from data_tools.formats.mapping import Columns, ReadOptions
from data_tools.reading import data_files, split_of

INFO = "dataset_info.json"
#: Names of LLaMA-Factory's columns, ours, and what they are called if the entry does not say.
_ALPACA = {
    "prompt": ("prompt", "instruction"), "query": ("input", "input"),
    "response": ("completion", "output"),
}  # fmt: skip
_SHAREGPT = {"messages": ("messages", "conversations")}
_BOTH = (
    "chosen", "rejected", "kto_tag", "system", "history", "tools", "images", "videos", "audios",
)  # fmt: skip
_NEEDED = frozenset({"prompt", "completion", "messages", "chosen", "rejected", "kto_tag", "text"})
_TAGS = {
    "user_tag": ("user", "human"), "assistant_tag": ("assistant", "gpt"),
    "observation_tag": ("tool", "observation"), "function_tag": ("function_call", "function_call"),
    "system_tag": ("system", "system"),
}  # fmt: skip
#: Keys of an entry that would change which rows are read.
_NOT_READ = ("num_samples", "subset", "folder", "script_url", "ms_hub_url", "om_hub_url",
             "cloud_file_name")  # fmt: skip


_WEIGHT = re.compile(r"(.+):(\d+\.?\d*|\.\d+)")


class Located(NamedTuple):
    """A data file, and which of its columns hold which parts."""

    file: Path
    columns: Columns | None

    def options(self, read: ReadOptions) -> ReadOptions:
        """Return how its rows are read, with its own columns."""
        return {**read, "columns": self.columns}


def located(source: str | Path, columns: Columns | None = None) -> list[Located]:
    """Return the files of a source, each with its columns.

    Args:
        source: A file, a folder, a hub name, or a name in a list: `dataset_info.json@name`.
        columns: Those that the user names.

    Raises:
        ConfigError: If a list has no such name, or an entry that cannot be read.
        DataError: If there is no such file.
    """
    path, weight = weighted(str(source))
    if weight is not None:
        raise ConfigError(
            f"{source}: a weight is for the training data of a stage", f"leave it out: {path}"
        )
    entry = listed_entry(source)
    if entry is None:
        return [Located(file, columns) for file in data_files(source)]
    if columns is not None:
        raise ConfigError(f"{source}: names its own columns", "leave --columns out")
    return [Located(file, _columns(entry, source)) for file in data_files(_place(entry, source))]


def one_split(source: str | Path, columns: Columns | None = None) -> list[Located]:
    """Return the files of a source that has one split, each with its columns.

    Raises:
        ConfigError: If a list has no such name, or an entry that cannot be read.
        DataError: If there is no such file, or there are several splits: the rows of one would be
            used with those of the other.
    """
    found = located(source, columns)
    first = {split_of(one.file): one.file for one in reversed(found)}
    if len(named := sorted(first.keys() - {""})) > 1:
        file = first["train" if "train" in named else named[0]]
        message = f"{source}: has the splits {', '.join(named)}"
        raise DataError(message, f"name the files of one: {file} ...")
    return found


def weighted(source: str) -> tuple[str, float | None]:
    """Return a source without its weight in a mix, and the weight if it has one: `path:0.3`."""
    found = _WEIGHT.fullmatch(source)
    if found is None or Path(source).exists():
        return source, None
    return found[1], float(found[2])


def listed_entry(source: str | Path) -> dict[str, Any] | None:
    """Return the entry of `dataset_info.json@name`, or of `folder@name`; None for other sources.

    Raises:
        ConfigError: If the list cannot be read or has no such name.
    """
    path, _, name = str(source).rpartition("@")
    if not path or Path(source).exists():
        return None
    info = _info(path)
    if not info.is_file():
        return None
    try:
        entries = json.loads(info.read_text(encoding="utf-8"))
        entry = entries.get(name)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{info}: not a list of data sets: {error}", "") from None
    if not isinstance(entry, dict):
        known = ", ".join(list(entries)[:10])
        raise ConfigError(f"{info}: no data set {name!r}", f"it has {known}")
    return entry


def _info(path: str) -> Path:
    return Path(path) / INFO if Path(path).is_dir() else Path(path)


def _place(entry: Mapping[str, Any], source: str | Path) -> str:
    """The file, folder or hub name of an entry."""
    unread = [key for key in _NOT_READ if entry.get(key)]
    if unread:
        raise ConfigError(f"{source}: {unread[0]!r} is not read", "name the file in 'file_name'")
    if entry.get("hf_hub_url"):
        split = entry.get("split")
        return f"{entry['hf_hub_url']}:{split}" if split else str(entry["hf_hub_url"])
    if not isinstance(entry.get("file_name"), str):
        raise ConfigError(f"{source}: no 'file_name'", "name the file, or 'hf_hub_url'")
    folder = _info(str(source).rpartition("@")[0]).parent
    return str(folder / entry["file_name"])


def _columns(entry: Mapping[str, Any], source: str | Path) -> Columns:
    """What an entry says of its columns, in our words."""
    formatting = entry.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise ConfigError(f"{source}: formatting {formatting!r} is not known", "alpaca or sharegpt")
    given = entry.get("columns") or {}
    own = _ALPACA if formatting == "alpaca" else _SHAREGPT
    if unknown := [key for key in given if key not in own and key not in _BOTH]:
        raise ConfigError(f"{source}: column {unknown[0]!r} is not known", "")
    parts = {ours: given.get(name, default) for name, (ours, default) in own.items()}
    parts |= {name: given[name] for name in _BOTH if given.get(name)}
    name = _adapter(entry, formatting, given)
    if name == "text":
        parts = {"text": parts["prompt"]}
    elif name == "alpaca-ranked":
        parts = {"instruction": parts.pop("prompt"), "output": parts.pop("completion"), **parts}
    elif name == "pair":
        del parts["completion"]
    optional = frozenset(parts) - (_NEEDED | {"instruction", "output"})
    if formatting == "alpaca":
        return Columns(parts, BY_NAME[name], optional)
    tags = entry.get("tags") or {}
    words = _TAGS if formatting == "sharegpt" else {k: (v[0], v[0]) for k, v in _TAGS.items()}
    roles = {tags.get(tag, default): role for tag, (role, default) in words.items()}
    keys = ("from", "value") if formatting == "sharegpt" else ("role", "content")
    named = tags.get("role_tag", keys[0]), tags.get("content_tag", keys[1])
    return Columns(parts, BY_NAME[name], optional, roles, named)


def _adapter(entry: Mapping[str, Any], formatting: str, given: Mapping[str, Any]) -> str:
    """The format of a row once its columns are renamed."""
    pairs, labelled = bool(entry.get("ranking")), bool(given.get("kto_tag"))
    if formatting != "alpaca":
        return "messages-ranking" if pairs else "kto-sharegpt" if labelled else "messages"
    if pairs:
        return "pair" if given.get("chosen") else "alpaca-ranked"  # older lists: answers in a list
    if labelled:
        return "kto-alpaca"
    # a column of prompts alone is text to continue from
    return "text" if "prompt" in given and "response" not in given else "prompt-completion"
