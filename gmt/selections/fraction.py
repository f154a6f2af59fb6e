"""The settings and the ranking of selections that choose a fraction of the examples."""

from __future__ import annotations

from collections.abc import Sequence

from gmt import settings


def check_fraction(value: object) -> None:
    """Raise UserError if a value is no fraction in (0, 1]."""
    rule = "must lie in (0, 1]"
    settings.number("selection.fraction", value, rule, low=0, high=1, open_low=True, open_high=False)


def number_of(fraction: float, num_examples: int) -> int:
    """Return the whole number that is nearest to fraction * num_examples; the even one if two are equally near."""
    return round(fraction * num_examples)


def ordered(scores: Sequence[float], *, largest: bool = False) -> list[int]:
    """Return the indices of scores from the smallest or from the largest score; equal scores keep their order."""
    sign = -1 if largest else 1
    return sorted(range(len(scores)), key=lambda i: (sign * scores[i], i))
