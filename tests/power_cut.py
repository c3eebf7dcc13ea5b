"""Cut the power of a real disk inside a run, mount it again, resume, compare; started by a test.

The disk is a file behind a loop device. The kernel shuts the file system down without writing its
log or any page that waits in memory, which is what a cut leaves. Words: the folder of a model, an
empty folder, mount options, then moments: a number (just before that one of the run's fsyncs) or
the path of a file in the run's folder (as soon as it is seen). "unsynced" before them leaves out
every fsync, to see that the cut does lose what was not brought to the disk.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import kills

from alignment.runs.files import checkpoints
from alignment.training.checkpoints import find_fault

EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2


class Disk:
    """An ext4 of its own in a file."""

    def __init__(self, place: Path, options: str) -> None:
        self.image, self.folder = place / "disk.img", place / "disk"
        self.options = f"loop,{options}"
        self.folder.mkdir()
        with self.image.open("wb") as file:
            file.truncate(192 << 20)
        call("mkfs.ext4", "-q", str(self.image))

    def __enter__(self) -> Disk:
        call("mount", "-o", self.options, str(self.image), str(self.folder))
        self.handle = os.open(self.folder, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)
        call("umount", str(self.folder))

    def cut_power(self) -> None:
        fcntl.ioctl(self.handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))


def call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def child(argv: list[str], disk: Disk, cut_at: int | None, skips: bool) -> None:
    """The run, which cuts its own power where it is to come at one of its fsyncs."""
    fsync, count = os.fsync, 0

    def counted(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == cut_at:
            disk.cut_power()
            os.kill(os.getpid(), signal.SIGKILL)
        if not skips:
            fsync(descriptor)

    os.fsync = counted
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from alignment.training.run import main

    main("sft", argv)


def cut_one(model: Path, place: Path, options: str, moment: str, *, skips: bool) -> dict[str, Any]:
    """One cut and one resume; what was found after the cut, and what the resumed run ends in."""
    place.mkdir(parents=True)
    disk = Disk(place, options)
    run = disk.folder / "runs" / "sft"
    with disk:
        run.parent.mkdir()
        (disk.folder / "synced").write_text("x" * 5000)
        os.sync()
        (disk.folder / "unsynced").write_text("x" * 5000)
        words = kills.arguments("sft", run, model, lora=False)
        cut_at = int(moment) if moment.isdigit() else None
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=child, args=(words, disk, cut_at, skips))
        process.start()
        if cut_at is None:
            while process.is_alive() and not (run / moment).exists():
                time.sleep(0.0002)
            disk.cut_power()
            process.kill()
        process.join()
    with disk:
        found: dict[str, Any] = {"moment": moment, "ended": process.exitcode != 0}
        found["controls"] = [sizes(disk.folder / name) for name in ("synced", "unsynced")]
        states = {path.name: find_fault(path) for path in checkpoints(run)} if run.is_dir() else {}
        found["whole"] = [name for name, fault in states.items() if fault is None]
        found["torn"] = {name: fault for name, fault in states.items() if fault}
        run.parent.mkdir(exist_ok=True)
        words = kills.arguments("sft", run, model, lora=False)
        again = kills.start("sft", [*words, "--resume"])
        again.join()
        found["resumed"] = again.exitcode
        found["prints"] = kills.fingerprints(run) if again.exitcode == 0 else {}
        if again.exitcode != 0:
            found["told"] = Path(f"{run}.log").read_text(encoding="utf-8")[-2000:]
    disk.image.unlink()
    return found


def sizes(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def main(model: Path, place: Path, options: str, moments: list[str]) -> None:
    kills.preload()
    reference = place / "reference" / "sft"
    reference.parent.mkdir(parents=True)
    process = kills.start("sft", kills.arguments("sft", reference, model, lora=False))
    process.join()
    wanted = kills.fingerprints(reference)
    skips = "unsynced" in moments
    for number, moment in enumerate(word for word in moments if word != "unsynced"):
        found = cut_one(model, place / str(number), options, moment, skips=skips)
        found["same"] = found.pop("prints") == wanted
        click.echo(json.dumps(found))
    synced = Path(f"{reference}.synced").read_text(encoding="utf-8")
    click.echo(json.dumps({"fsyncs": len(synced.splitlines())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
