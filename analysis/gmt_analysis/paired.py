"""Differences between choices on the same seed, by Student's paired t test.

The functions take the typed table of a study (gmt.tracking.table) and one of its columns; only finished runs count, and
differences are in the units of the column. A pair is the runs of two choices on the same seed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from gmt_analysis.choices import CHOICE, Baseline, scores_of
from gmt_analysis.power import ALPHA, FEWEST, detectable_difference
from gmt_analysis.statistics import mean_interval

NO_SPREAD = 1e-12  # of scores in [0, 1]: differences below it are rounding


def differences(table: pd.DataFrame, column: str, *, baseline: str) -> pd.DataFrame:
    """Return each choice less the baseline on the same seed, with a t interval and Student's paired test.

    Args:
        table: of a study.
        column: the compared column.
        baseline: an arm, e.g. `sft`; gmt_analysis.choices.Baseline says which of its runs a choice is compared with.

    Returns:
        A row for each other arm, task and value of the axis: `difference`, its bounds `low` and `high`, `n` pairs, `p`
        of the two-sided paired t test, `p_holm`, corrected for all rows (Holm, 1979), and `detectable`: the smallest
        difference found with a power of POWER, with the level shared out over all rows. With fewer than three pairs,
        or pairs that all differ by the same amount, there is no test and p is missing.

    Raises:
        UserError: the study has no such arm with a finished run.
    """
    scores, base = scores_of(table, column), Baseline.from_table(table, baseline)
    rows = []
    for (arm, task, value), group in scores[scores["arm"] != baseline].groupby(CHOICE, dropna=False, sort=False):
        base_runs = base.runs(scores[scores["task"] == task], group["axis"].iloc[0])
        pairs = group.merge(base_runs, on="seed", suffixes=("", "_of_baseline"))
        rows.append({"arm": arm, "task": task, "axis": value, **_paired(pairs, column)})
    tests = pd.DataFrame(rows, columns=[*CHOICE, "difference", "low", "high", "n", "p", "deviation"])
    detectable = [
        detectable_difference(float(deviation), int(n), num_comparisons=len(tests))
        for deviation, n in zip(tests["deviation"], tests["n"], strict=True)
    ]
    return corrected(tests.drop(columns="deviation"), "p").assign(detectable=detectable)


def t_test(differences_N: np.ndarray) -> dict[str, float]:
    """Return the mean of N differences with its interval, and p of Student's two-sided test that the mean is 0.

    Returns:
        `difference`, `low`, `high`, `n` and `p`, which is NaN where `is_tested` is false.
    """
    mean = mean_interval(differences_N.tolist())
    p = float(stats.ttest_1samp(differences_N, 0).pvalue) if is_tested(differences_N) else float("nan")
    return {"difference": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "p": p}


def is_tested(differences_N: np.ndarray) -> bool:
    """Return whether N differences have a t: there are at least FEWEST, and they are not all the same."""
    return len(differences_N) >= FEWEST and float(np.ptp(differences_N)) > NO_SPREAD


def corrected(rows: pd.DataFrame, p: str) -> pd.DataFrame:
    """Return the rows with a column `P_holm`: column P corrected over all rows by Holm's procedure."""
    from statsmodels.stats.multitest import multipletests

    known = rows[p].notna()
    by_holm = pd.Series(float("nan"), index=rows.index)
    if known.any():
        by_holm[known] = multipletests(rows.loc[known, p].astype(float), alpha=ALPHA, method="holm")[1]
    return rows.assign(**{f"{p}_holm": by_holm})


def _paired(pairs: pd.DataFrame, column: str) -> dict[str, float]:
    differences_N = (pairs[column] - pairs[f"{column}_of_baseline"]).to_numpy()
    if not len(differences_N):
        return {**dict.fromkeys(("difference", "low", "high", "p", "deviation"), float("nan")), "n": 0}
    deviation = float(differences_N.std(ddof=1)) if is_tested(differences_N) else float("nan")
    return t_test(differences_N) | {"deviation": deviation}
