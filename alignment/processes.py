"""Which of several processes this one is, before accelerate is imported."""

import os


def rank() -> int:
    """The rank that a launcher gave this process, 0 where there is none."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes the launcher started, 1 where there is none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that prints and writes records."""
    return rank() == 0
