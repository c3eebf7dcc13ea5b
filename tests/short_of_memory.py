"""Run a stage with little memory beyond what stands when training begins; started by tests.

The words: how many megabytes, the ranks that are short (as 0,1), the stage, its flags.
"""

import os
import resource
import sys
from pathlib import Path
from typing import Any

from alignment.memory import preflight
from alignment.training.run import main

PAGE = 4096


def limit_from_here(megabytes: int) -> None:
    """Let this process map so much more and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE + (megabytes << 20), -1))


def start(megabytes: int, ranks: str, stage: str, argv: list[str]) -> None:
    train = preflight.train

    def train_short(*args: Any, **kwargs: Any) -> Any:
        if os.environ.get("RANK", "0") in ranks.split(","):
            limit_from_here(megabytes)
        return train(*args, **kwargs)

    preflight.train = train_short
    main(stage, argv)


if __name__ == "__main__":
    start(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
