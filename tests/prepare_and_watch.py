"""Prepare rows in a process that watches what it does; started by tests.

The words: what to do, the stage, its flags. `once` and `twice` prepare the rows and print the
data files that the last time opened; `killed` kills the process when the written entry gets its
name; `touched` changes the time of a data file while it is read.
"""

import json
import os
import signal
import sys
from typing import Any

from alignment.data.rows import prepare_stage
from alignment.registry import STAGES
from alignment.settings.resolve import resolve


def start(action: str, stage: str, argv: list[str]) -> None:
    values = resolve(stage, argv).values
    opened: set[str] = set()

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename" and action == "killed" and str(args[0]).endswith(".tmp"):
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "open" and str(args[0]) in values["train_data"]:
            opened.add(str(args[0]))
            if action == "touched":
                os.utime(args[0], (1, 1))

    if action == "twice":
        prepare_stage(STAGES[stage], values)
    sys.addaudithook(watch)
    rows = prepare_stage(STAGES[stage], values)
    state = rows.by_role["train"].entry.rows.stat()
    found = {"opened": sorted(opened), "inode": state.st_ino, "time": state.st_mtime_ns}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    start(sys.argv[1], sys.argv[2], sys.argv[3:])
