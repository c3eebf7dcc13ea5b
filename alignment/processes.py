"""The rank of this process and the number of processes, without importing accelerate."""

import os


def rank() -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """The number of processes that the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that prints and writes records."""
    return rank() == 0
