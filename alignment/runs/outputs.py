"""The files that a run ends in, by content, so that a later change of them is noticed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from alignment.disk import digest_file, digest_pieces
from alignment.runs.files import RECORD, WEIGHT_SUFFIXES, model_files


def digest_outputs(folder: Path) -> dict[str, str]:
    """The digest of each file that decides what a model does: of weights by pieces, else whole."""
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in model_files(folder)
        if path.name != RECORD
    }


def digest_model(folder: Path) -> str:
    """One digest of all of them."""
    lines = [f"{name} {digest}\n" for name, digest in digest_outputs(folder).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def changed_outputs(folder: Path, outputs: Mapping[str, str]) -> list[str]:
    """The files of a run that are no longer what it wrote; files that came later are none.

    Statistics, tokenizer and chat template are among them.
    """
    return [
        name
        for name, digest in sorted(outputs.items())
        if not (folder / name).is_file() or _digest(folder / name) != digest
    ]


def _digest(path: Path) -> str:
    return digest_pieces(path) if path.suffix in WEIGHT_SUFFIXES else digest_file(path)
