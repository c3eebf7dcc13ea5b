"""Numbers as people read them: bytes, counts, durations."""


def show_size(size: int) -> str:
    """Bytes in the largest unit that leaves 1 or more; `-` for none."""
    if size >= 2**30:
        return f"{size / 2**30:,.1f} GiB"
    if size >= 2**20:
        return f"{size / 2**20:,.0f} MiB"
    return f"{size / 2**10:,.0f} KiB" if size else "-"


def show_count(numbers: int) -> str:
    """A count, in millions if it is large."""
    return f"{numbers / 1e6:,.1f} M" if numbers >= 1e6 else f"{numbers:,}"


def show_seconds(seconds: float | None) -> str:
    """A duration in the largest unit that leaves 2 or more."""
    if seconds is None:
        return "unknown"
    unit, size = next(
        ((u, n) for u, n in (("days", 86400), ("h", 3600), ("min", 60)) if seconds >= 2 * n),
        ("s", 1),
    )
    return f"{seconds / size:,.1f} {unit}" if seconds >= 0.95 else f"{seconds * 1000:,.0f} ms"
