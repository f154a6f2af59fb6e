"""Names for a sentence: a few of many, and how many more there are."""

from collections.abc import Sequence


def some(names: Sequence[str], separator: str = ", ", *, most: int = 5) -> str:
    """Return the first `most` names and the number of the others, e.g. `sft, gmt, rmt, hft, lift and 3 more`."""
    more = len(names) - most
    return separator.join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
