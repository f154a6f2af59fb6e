"""Spans of time as people read them."""


def duration(seconds: float) -> str:
    """A span of time for people, e.g. `14 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def took(seconds: float | None) -> str:
    """For behind `done`: ` in 23 s`, or nothing where nobody knows."""
    return "" if seconds is None else f" in {duration(seconds)}"
