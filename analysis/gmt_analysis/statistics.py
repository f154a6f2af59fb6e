"""Means over seeds with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from gmt.verdicts.question import LEVEL

CONFIDENCE = 1 - LEVEL
_RESAMPLES = 9999


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over n values with its t interval; the bounds are NaN for fewer than two values."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean of `values` and its two-sided 95 % Student t interval.

    The interval speaks of the mean over seeds, if seeds' scores are about normal; it is not clipped to [0, 1].

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    x = np.asarray(values, dtype=float)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(f"a mean needs finite values, got {list(values)}")
    mean = float(x.mean())
    if len(x) == 1:
        return Mean(mean=mean, low=float("nan"), high=float("nan"), n=1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Mean(mean=mean, low=mean - half, high=mean + half, n=len(x))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The two-sided 95 % bootstrap interval of the mean (BCa: Efron, 1987), drawn by a fixed seed.

    It assumes no normal distribution, and is too narrow for few values: over five seeds read the t interval first.

    Returns:
        The bounds; NaN for fewer than two values.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    x = np.asarray(values, dtype=float)
    mean = mean_interval(values).mean
    if len(x) == 1:
        return float("nan"), float("nan")
    if not np.ptp(x):
        return mean, mean
    bootstrap = stats.bootstrap(
        (x,), np.mean, confidence_level=CONFIDENCE, n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(bootstrap.confidence_interval.low), float(bootstrap.confidence_interval.high)


def summarise(table: pd.DataFrame, columns: Sequence[str], *, bootstrapped: Sequence[str] = ()) -> pd.DataFrame:
    """Return means over seeds, a row for each arm, task and value of the axis: `COLUMN`, `COLUMN_low`, `_high` and `n`.

    Args:
        table: the typed table of a study; only finished runs count.
        columns: to average; a column that holds nothing for a group gives NaN.
        bootstrapped: those of them for which `COLUMN_boot_low` and `COLUMN_boot_high` are computed too.
    """
    done = table[table["state"] == "done"]
    rows = []
    for (arm, task, value), group in done.groupby(["arm", "task", "axis"], dropna=False, sort=False):
        row: dict[str, object] = {"arm": arm, "task": task, "axis": value, "n": len(group)}
        for column in columns:
            values = group[column].dropna().astype(float).tolist()
            nothing = Mean(mean=float("nan"), low=float("nan"), high=float("nan"), n=0)
            mean = mean_interval(values) if values else nothing
            row |= {column: mean.mean, f"{column}_low": mean.low, f"{column}_high": mean.high}
            if column in bootstrapped:
                low, high = bootstrap_interval(values) if values else (float("nan"), float("nan"))
                row |= {f"{column}_boot_low": low, f"{column}_boot_high": high}
        rows.append(row)
    summary = pd.DataFrame(rows)
    return summary.astype({"axis": "Float64"}) if rows else summary
