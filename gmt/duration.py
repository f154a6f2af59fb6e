"""Formats durations for people."""


def duration(seconds: float) -> str:
    """Return a number of seconds in words, e.g. `14 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def took(seconds: float | None) -> str:
    """Return a text to append to `done`, e.g. ` in 23 s`; empty if the time is unknown."""
    return "" if seconds is None else f" in {duration(seconds)}"
