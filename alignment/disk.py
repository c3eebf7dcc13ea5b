"""Write files atomically, compute digests, and report errors of a full or read-only disk.

Libraries report such errors differently: Python raises an OSError; safetensors and torch raise
their own errors, which contain the same text.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alignment.errors import ConfigError, TrainingError

_REMEDIES = {
    errno.ENOSPC: "free space there, or choose another output_dir; then continue with --resume",
    errno.EDQUOT: "your quota is used up: free space, then continue with --resume",
    errno.EFBIG: "a file there may not be that large (ulimit -f): raise it, then --resume",
    errno.EROFS: "make it writable, or choose another output_dir; then continue with --resume",
    errno.EACCES: "make it writable, or choose another output_dir; then continue with --resume",
    errno.EPERM: "make it writable, or choose another output_dir; then continue with --resume",
    errno.EIO: "the disk itself fails: look at dmesg; then continue with --resume",
}
#: Size and number of the pieces of a large file that its digest covers.
_PIECE, _PIECES = 1 << 18, 64
#: Bytes of the longest name of a run: file systems allow 255, and ``.previous-1`` is longer.
_LONGEST_NAME = 240
#: Texts of torch's errors if it cannot write its zip archive; they have no errno.
_TORCH = ("PytorchStreamWriter", "inline_container", "iostream error", "basic_ios::clear")


@contextmanager
def disk_errors_in_words(folder: Path) -> Iterator[None]:
    """Turn an error of the disk under ``folder`` into one line.

    Raises:
        TrainingError: A write failed; names the folder, the reason and the free space.
    """
    try:
        yield
    except Exception as error:
        found = _code(error, folder)
        if found is None:
            raise
        named = error.filename if isinstance(error, OSError) else None
        raise TrainingError(
            f"{named or folder}: cannot be written: {os.strerror(found)} ({_free(folder)} free)",
            _REMEDIES[found],
        ) from error


def check_writable(folder: Path) -> None:
    """Check that files can be created in a folder, or in the nearest existing one above it.

    Raises:
        ConfigError: They cannot.
    """
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in folder.absolute().parts):
        raise ConfigError(
            f"output_dir: {folder}: a name in it has more than {_LONGEST_NAME} bytes, and names "
            "derived from it would not fit",
            "choose a shorter name",
        )
    if folder.is_file():
        raise ConfigError(f"output_dir: {folder}: is a file", "name a folder")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:  # has no name that a kill could leave
            file.write(b"\0")
    except OSError as error:
        raise ConfigError(
            f"output_dir: {folder}: cannot be written: {error.strerror} ({_free(there)} free)",
            "make it writable, free space, or choose another output_dir",
        ) from None


def _code(error: Exception, folder: Path) -> int | None:
    """The errno behind an error, None if the disk did not cause it."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _REMEDIES else None
    text = str(error)
    for code in _REMEDIES:
        if f"(os error {code})" in text or os.strerror(code) in text:
            return code
    if not any(word in text for word in _TORCH):
        return None
    return _probe(folder)


def _probe(folder: Path) -> int:
    """Write a file to learn the errno that a library lost; EIO if that shows nothing else."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * (1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno if error.errno in _REMEDIES else errno.EIO
    return errno.ENOSPC if shutil.disk_usage(folder).free < 1 << 24 else errno.EFBIG


def _free(folder: Path) -> str:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return f"{shutil.disk_usage(there).free / 1e9:.2f} GB"


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk (fsync)."""
    on_windows = os.name == "nt"
    if on_windows and path.is_dir():  # it opens no folder
        return
    descriptor = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_file(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_pieces(path: Path) -> str:
    """The sha256 of a large file's size and of evenly spaced pieces of it, in hex.

    Hashing 15 GB takes minutes, and training changes weights everywhere, so pieces are enough to
    tell two files apart. Files of up to 16 MB are read whole; in larger ones a change between two
    pieces is not noticed.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    last = max(0, size - _PIECE)
    with path.open("rb") as file:
        for start in (*range(0, last, max(_PIECE, last // _PIECES)), last):
            file.seek(start)
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError:  # a full disk: leave no half-written file behind
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
