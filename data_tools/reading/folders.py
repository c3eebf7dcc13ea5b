"""Finds the data files of a folder: what `datasets` saved, what the hub holds, or any files."""

import json
import re
from pathlib import Path

SUFFIXES = (
    ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".xlsx",
)  # fmt: skip
PACKED = (".gz", ".zst")
#: What describes a data set and holds none of its rows.
ABOUT = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
    | {"dataset_infos.jsonl", "croissant.json"}
)
TEXT_ABOUT = re.compile(
    r"(?i)(?:readme|licen[cs]e|notice|requirements|changelog|citation|copying)[\w.-]*\.txt"
)
SPLIT = re.compile(
    r"(?:^|[-_.:])(train|test|validation|valid|val|dev|eval)(?:[-_.]|$)", re.IGNORECASE
)


def folder_files(folder: Path) -> list[Path]:
    """Return the data files of a folder in the order of their names.

    Of a folder that `datasets` saved, these are the files that it lists. Hidden folders, caches and
    files that only describe the data set are left out.
    """
    splits = _listed(folder / "dataset_dict.json", "splits")
    if splits is not None:
        return [file for split in splits for file in folder_files(folder / str(split))]
    saved = _listed(folder / "state.json", "_data_files")
    if saved is not None:
        return [folder / str(file["filename"]) for file in saved]
    found = (file for file in folder.rglob("*") if bare_suffix(file) in SUFFIXES)
    return sorted(file for file in found if file.is_file() and _is_data(file, folder))


def split_of(file: Path) -> str:
    """Return the split in the name of a file or its folder (`train`, `test`, ...), or nothing."""
    found = SPLIT.search(file.name.split(".parquet")[0].split(".json")[0].split(".csv")[0])
    return (found[1] if found else _split_folder(file)).lower()


def bare_suffix(path: Path) -> str:
    """Return the suffix that names the content: `.jsonl` of `a.jsonl.gz`."""
    bare = path.with_suffix("") if path.suffix in PACKED else path
    return bare.suffix.lower()


def _split_folder(file: Path) -> str:
    """Return the split that the folder of a file is named by, as `save_to_disk` does it."""
    return file.parent.name if SPLIT.fullmatch(file.parent.name) else ""


def _is_data(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    if any(part.startswith(".") for part in parts) or file.name in ABOUT:
        return False
    if file.suffix == ".arrow" and file.name.startswith(("cache-", "tmp")):
        return False
    return not TEXT_ABOUT.fullmatch(file.name)


def _listed(path: Path, key: str) -> list[dict[str, object]] | None:
    """Return a list in a file that `datasets` wrote; None if this is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, list) else None
