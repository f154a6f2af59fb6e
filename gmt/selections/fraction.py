"""The best of some examples by a score, as many as a fraction of them."""

from __future__ import annotations

from collections.abc import Sequence

from gmt import settings


def check_fraction(value: object) -> None:
    """Refuse a fraction outside (0, 1].

    Raises:
        UserError: in a sentence.
    """
    rule = "must lie in (0, 1]"
    settings.number("selection.fraction", value, rule, low=0, high=1, open_low=True, open_high=False)


def number_of(fraction: float, num_examples: int) -> int:
    """Return the whole number that is nearest to a fraction of some examples; of two, the even one."""
    return round(fraction * num_examples)


def ordered(scores: Sequence[float], *, largest: bool = False) -> list[int]:
    """Return the indices of scores from the smallest, or from the largest; of equals the first one comes first."""
    sign = -1 if largest else 1
    return sorted(range(len(scores)), key=lambda i: (sign * scores[i], i))
