"""Means over seeds with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from gmt.verdicts.question import LEVEL
from gmt_analysis.choices import CHOICE

CONFIDENCE = 1 - LEVEL
_RESAMPLES = 9999
_MOST_AT_ONCE = 20_000_000  # numbers in a matrix


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over n values with its t interval; the bounds are NaN for fewer than two values."""

    mean: float
    low: float
    high: float
    n: int


_NOTHING = Mean(mean=float("nan"), low=float("nan"), high=float("nan"), n=0)


def mean_interval(values: Sequence[float]) -> Mean:
    """Return the mean of `values` and its two-sided 95 % Student t interval.

    The interval assumes that the values are about normally distributed. It is not clipped to [0, 1].

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    x = np.asarray(values, dtype=float)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(f"a mean needs finite values, got {list(values)}")
    mean = float(x.mean())
    if len(x) == 1:
        return Mean(mean=mean, low=float("nan"), high=float("nan"), n=1)
    half = float(special.stdtrit(len(x) - 1, (1 + CONFIDENCE) / 2) * x.std(ddof=1) / np.sqrt(len(x)))
    return Mean(mean=mean, low=mean - half, high=mean + half, n=len(x))


def bootstrap_intervals(samples: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return the two-sided 95 % bootstrap intervals of means (BCa: Efron, 1987), each drawn by the same fixed seed.

    They assume no normal distribution, but are too narrow for few values: for five seeds, trust the t interval first.

    Returns:
        The bounds for each sample; NaN for fewer than two values.

    Raises:
        ValueError: a value is not finite.
    """
    bounds = {place: _without_draws(values) for place, values in enumerate(samples)}
    drawn: dict[int, list[int]] = {}
    for place, known in bounds.items():
        if known is None:
            drawn.setdefault(len(samples[place]), []).append(place)
    for size, places in drawn.items():
        at_once = max(_MOST_AT_ONCE // (_RESAMPLES * size), 1)
        for start in range(0, len(places), at_once):
            batch = places[start : start + at_once]
            bounds |= dict(zip(batch, _drawn_bounds(np.array([samples[place] for place in batch])), strict=True))
    return [known for known in bounds.values() if known is not None]


def _without_draws(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the bounds of a sample that needs no draws; None for one that does."""
    if len(values) < 2:
        return float("nan"), float("nan")
    mean = mean_interval(values).mean
    return None if np.ptp(values) else (mean, mean)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return means whose bits do not depend on the number of samples, since BCa counts ties with the mean."""
    means: np.ndarray = np.ascontiguousarray(values).mean(axis=axis)
    return means


def _drawn_bounds(samples_KN: np.ndarray) -> list[tuple[float, float]]:
    interval = stats.bootstrap(
        (samples_KN,),
        _mean,
        axis=1,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return list(zip(interval.low.tolist(), interval.high.tolist(), strict=True))


def summarise(table: pd.DataFrame, columns: Sequence[str], *, bootstrapped: Sequence[str] = ()) -> pd.DataFrame:
    """Return means over seeds, a row for each arm, task and value of the axis: `COLUMN`, `COLUMN_low`, `_high` and `n`.

    Args:
        table: the typed table of a study; only finished runs count.
        columns: the columns to average; NaN for a group without values in a column.
        bootstrapped: the columns for which `COLUMN_boot_low` and `COLUMN_boot_high` are computed too.
    """
    done = table[table["state"] == "done"]
    if done.empty:
        return pd.DataFrame()
    group_N = done.groupby(CHOICE, dropna=False, sort=False).ngroup().to_numpy()
    groups = [np.flatnonzero(group_N == number) for number in range(group_N.max() + 1)]
    first = done.iloc[[places[0] for places in groups]].reset_index(drop=True)
    summary: dict[str, Any] = {**{name: first[name] for name in CHOICE}, "n": [len(places) for places in groups]}
    for column in columns:
        values_N = done[column].to_numpy(dtype=float, na_value=float("nan"))
        samples = [values[~np.isnan(values)].tolist() for values in (values_N[places] for places in groups)]
        means = [mean_interval(values) if values else _NOTHING for values in samples]
        summary |= {column: [mean.mean for mean in means]}
        summary |= {f"{column}_{end}": [getattr(mean, end) for mean in means] for end in ("low", "high")}
        if column in bootstrapped:
            bounds = bootstrap_intervals(samples)
            summary |= {
                f"{column}_boot_{end}": [pair[place] for pair in bounds] for place, end in enumerate(("low", "high"))
            }
    return pd.DataFrame(summary).astype({"axis": "Float64"})
