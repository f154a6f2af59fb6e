"""The frontier of a task in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gmt.listed import some

_MISSES = 0.08  # share of intervals that miss the truth, in the simulation of frontier_of's docstring


def frontier_in_words(matched: pd.DataFrame, baseline: str, margin: float) -> list[str]:
    """Return sentences on the forgetting of each arm of a task, and on what its intervals can show.

    Args:
        matched: rows of one task; see `Frontier.matched`.
        baseline: the arm whose best target score, less the margin, is the score at which all arms are compared.
        margin: the margin, a fraction in [0, 1).
    """
    rows = matched.to_dict("records")
    of_baseline = next(row for row in rows if row["arm"] == baseline)
    lead = (
        f"On {of_baseline['task']}, at a target score of {of_baseline['at']:.1%} ({baseline}'s best less "
        f"{100 * margin:g} points), {baseline} forgets {_points(of_baseline, 'forgetting')}"
    )
    others = [_arm_in_words(row, baseline) for row in rows if row["arm"] != baseline]
    compared = [row for row in rows if row["arm"] != baseline and np.isfinite(row["forgetting"])]
    num_intervals = sum(not np.isnan(row["difference_low"]) for row in compared)
    has_intervals = not np.isnan(of_baseline["forgetting_low"])
    unequal = [r["arm"] for r in compared if has_intervals and r["num_points"] != of_baseline["num_points"]]
    on_points = (
        f"{some(unequal)}: no interval of the difference, since {baseline} has another number of points, and the "
        "lowest of many points is lower by chance than the lowest of few."
    )
    return ["; ".join([lead, *others]) + ".", *([on_points] if unequal else []), *_on_chance(num_intervals, baseline)]


def _on_chance(num_intervals: int, baseline: str) -> list[str]:
    """Return a sentence that the intervals of several arms are uncorrected."""
    if num_intervals < 2:
        return []
    number = _MISSES * num_intervals
    return [
        f"These {num_intervals} intervals of differences are uncorrected: if no arm differed from {baseline}, "
        f"about {f'{number:.0f}' if number >= 1 else f'{number:.1f}'} would exclude 0 by chance."
    ]


def _arm_in_words(row: Mapping[Any, Any], baseline: str) -> str:
    if not np.isfinite(row["forgetting"]):
        return f"{row['arm']} does not reach this target score"
    low, high = row["difference_low"], row["difference_high"]
    if np.isnan(low):
        shown = "no interval"
    elif high < 0:
        shown = f"less than {baseline}"
    elif low > 0:
        shown = f"more than {baseline}"
    else:
        shown = "no difference shown"
    return f"{row['arm']} forgets {_points(row, 'forgetting')}, a difference of {_points(row, 'difference')}: {shown}"


def _points(row: Mapping[Any, Any], name: str) -> str:
    low, high, sign = row[f"{name}_low"], row[f"{name}_high"], "+" if name == "difference" else ""
    interval = "" if np.isnan(low) else f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{100 * row[name]:{sign}.1f}{interval}"
