"""Names for a sentence: a few of many, and how many more there are."""

from collections.abc import Sequence

_MOST = 5


def some(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first names and the number of the others, e.g. `sft, gmt, rmt, hft, lift and 3 more`."""
    more = len(names) - _MOST
    return separator.join(names[:_MOST]) + (f" and {more:,} more" if more > 0 else "")
