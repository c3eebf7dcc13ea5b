"""How long the parts of a rollout take."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by part; a part that is measured within another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the seconds of the block to a part."""
        started, counted = time.perf_counter(), sum(self.seconds.values())
        yield
        within = sum(self.seconds.values()) - counted
        self.seconds[part] += time.perf_counter() - started - within

    def finish(self) -> dict[str, float]:
        """Return the seconds by metric, and start again from 0."""
        found = {f"time/{part}": seconds for part, seconds in self.seconds.items()}
        self.seconds.clear()
        return found
