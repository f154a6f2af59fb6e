"""Shortens a long list of names for a sentence."""

from collections.abc import Sequence


def some(names: Sequence[str], separator: str = ", ", *, most: int = 5) -> str:
    """Return the first `most` names and the number of the others, e.g. `sft, gmt, rmt, hft, lift and 3 more`."""
    num_others = len(names) - most
    return separator.join(names[:most]) + (f" and {num_others:,} more" if num_others > 0 else "")
