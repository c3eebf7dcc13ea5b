"""The folder of prepared rows: one entry per data and settings, whole or absent, bounded in size.

An entry is a folder with `rows.arrow` (memory-mapped by every process) and `about.json`. It is
written under a temporary name and renamed. A lock keeps a second writer waiting; the kernel lets go
of it, however the first one ends, so nobody waits for a process that is gone.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.disk import disk_errors_in_words, sync, write_text
from alignment.errors import ConfigError

ROWS, ABOUT = "rows.arrow", "about.json"
#: Variables that move the folder and change its bound.
FOLDER, LIMIT = "ALIGN_CACHE", "ALIGN_CACHE_GB"
_DEFAULT_GB = 20.0


@dataclass(frozen=True, slots=True)
class Entry:
    """Prepared rows on disk, and what is known about them."""

    folder: Path
    about: dict[str, Any]

    @property
    def rows(self) -> Path:
        """The Arrow file of the rows."""
        return self.folder / ROWS

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    @property
    def used(self) -> float:
        """When it was last used, in seconds since 1970."""
        return (self.folder / ABOUT).stat().st_mtime


def cache_folder() -> Path:
    """Where prepared rows are kept: ALIGN_CACHE, else align/rows in the user's cache folder."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "align" / "rows"


def find_entry(key: str, is_right: Callable[[dict[str, Any]], bool]) -> Entry | None:
    """The entry under a key that a test of its `about` accepts; marks it as used now."""
    for entry in entries(key):
        if is_right(entry.about):
            # the bound deletes what was not used for longest; disks often keep no time of access
            os.utime(entry.folder / ABOUT)
            return entry
    return None


def entries(key: str = "") -> Iterator[Entry]:
    """All entries, or those under a key."""
    for folder in sorted(cache_folder().glob(f"{key}*")):
        if folder.is_dir() and not folder.name.startswith("."):
            with suppress(OSError, ValueError):  # another process may clear it meanwhile
                yield Entry(folder, json.loads((folder / ABOUT).read_text(encoding="utf-8")))


@contextmanager
def only_writer(key: str) -> Iterator[None]:
    """Hold the lock of a key; waits for as long as another process holds it."""
    from filelock import FileLock

    folder = cache_folder()
    lock = FileLock(folder / f".{key}.lock", fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:  # some network file systems have no locks
        raise ConfigError(
            f"{folder}: prepared rows cannot be kept and locked there: {error.strerror}",
            f"name a folder on a local disk: {FOLDER}=FOLDER",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_entry(key: str) -> Iterator[Path]:
    """A temporary folder to write an entry into; deleted if the writer fails.

    The caller renames it with `keep_entry`.
    """
    folder = cache_folder() / f".{key}.{os.getpid()}.tmp"
    for left in cache_folder().glob(f".{key}.*.tmp"):  # of a writer that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        with disk_errors_in_words(folder.parent):
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep_entry(folder: Path, name: str, about: dict[str, Any]) -> Entry:
    """Give a written entry its name, and delete the least used ones beyond the bound."""
    (folder / ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    # before the rename: after a power cut, a name must not stand for files without content
    for file in folder.iterdir():
        sync(file)
    place = cache_folder() / name
    if place.exists():  # the same data and settings under another path
        shutil.rmtree(place)
    folder.rename(place)
    sync(place.parent)
    _bound(keep=place)
    return Entry(place, about)


def known_digest(state: list[Any]) -> str | None:
    """The digest of data in a state, if its content was read before."""
    try:
        return _digest_place(state).read_text(encoding="utf-8")
    except OSError:
        return None


def remember_digest(state: list[Any] | None, digest: str) -> None:
    """Keep the digest of data in a state; a cache that cannot be written only costs time.

    None is a state that would not show a change.
    """
    if state is None:
        return
    with suppress(OSError):
        place = _digest_place(state)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, digest)


def _digest_place(state: list[Any]) -> Path:
    name = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    return cache_folder() / ".digests" / name


def clear() -> tuple[int, int]:
    """Delete every entry; return how many there were and their bytes."""
    found = list(entries())
    freed = sum(entry.size for entry in found)
    for entry in found:
        shutil.rmtree(entry.folder, ignore_errors=True)
    for left in (*cache_folder().glob(".*.tmp"), cache_folder() / ".digests"):
        shutil.rmtree(left, ignore_errors=True)
    return len(found), freed


def limit_bytes() -> int:
    """The bound of the folder.

    Raises:
        ConfigError: ALIGN_CACHE_GB is no number.
    """
    given = os.environ.get(LIMIT)
    try:
        return int(float(given or _DEFAULT_GB) * 1e9)
    except ValueError:
        raise ConfigError(f"{LIMIT}: {given!r} is no number", "give gigabytes, as in 50") from None


def _bound(keep: Path) -> None:
    """Delete entries, the least recently used first, until the folder is within its bound.

    A process that has mapped an entry keeps its pages: Linux frees them with the last user.
    """
    found = sorted(entries(), key=lambda entry: entry.used)
    total, limit = sum(entry.size for entry in found), limit_bytes()
    for entry in found:
        if total <= limit:
            return
        if entry.folder != keep:
            total -= entry.size
            shutil.rmtree(entry.folder, ignore_errors=True)


def describe_entries() -> Iterator[str]:
    """One line per entry, the most recently used first, and one for all."""
    found = sorted(entries(), key=lambda entry: -entry.used)
    for entry in found:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        sources = ", ".join(source["path"] for source in entry.about["sources"])
        rows = entry.about["rows"]
        yield f"{day}  {entry.size / 1e6:10,.1f} MB  {rows:>11,} rows  {sources}"
    total = sum(entry.size for entry in found)
    yield (
        f"{len(found)} prepared data set{'' if len(found) == 1 else 's'} in {cache_folder()}: "
        f"{total / 1e6:,.1f} MB of {limit_bytes() / 1e9:,.0f} GB"
    )
