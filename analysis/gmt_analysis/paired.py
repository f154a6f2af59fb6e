"""Differences between choices on the same seed, by Student's paired t test.

Everything here takes the typed table of a study (gmt.tracking.table), of which only finished runs count, and a column
of it; differences are in the units of that column. The runs of two choices on the same seed are a pair.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from gmt_analysis.choices import CHOICE, Baseline, scores_of
from gmt_analysis.power import ALPHA, FEWEST, detectable_difference
from gmt_analysis.statistics import mean_interval

NO_SPREAD = 1e-12  # of scores in [0, 1]: what rounding leaves


def differences(table: pd.DataFrame, column: str, *, baseline: str) -> pd.DataFrame:
    """Each choice less the baseline on the same seed, with a t interval, and Student's paired test.

    Args:
        table: of a study.
        column: what is compared.
        baseline: an arm, e.g. `sft`; see gmt_analysis.choices.Baseline for which of its runs a choice is held against.

    Returns:
        A row for each other arm, task and value of the axis: `difference`, its bounds `low` and `high`, `n` pairs, `p`
        of the two-sided paired t test, `p_holm`, corrected for all rows (Holm, 1979), and `detectable`: the smallest
        difference found with a power of POWER, with the level shared out over all rows. With fewer than three pairs,
        or pairs that all differ by the same, there is no test and p is missing.

    Raises:
        UserError: the study has no such arm with a finished run.
    """
    scores, held = scores_of(table, column), Baseline.of(table, baseline)
    rows = []
    for (arm, task, value), group in scores[scores["arm"] != baseline].groupby(CHOICE, dropna=False, sort=False):
        base = held.runs(scores[scores["task"] == task], group["axis"].iloc[0])
        pairs = group.merge(base, on="seed", suffixes=("", "_of_baseline"))
        rows.append({"arm": arm, "task": task, "axis": value, **_paired(pairs, column)})
    made = pd.DataFrame(rows, columns=[*CHOICE, "difference", "low", "high", "n", "p", "deviation"])
    detectable = [
        detectable_difference(float(each), int(n), num_comparisons=len(made))
        for each, n in zip(made["deviation"], made["n"], strict=True)
    ]
    return corrected(made.drop(columns="deviation"), "p").assign(detectable=detectable)


def p_of(differences_N: np.ndarray) -> float:
    """Return p of Student's two-sided test that the mean of N differences is 0; NaN where there is no test."""
    return float(stats.ttest_1samp(differences_N, 0).pvalue) if is_tested(differences_N) else float("nan")


def is_tested(differences_N: np.ndarray) -> bool:
    """Return whether there is a t: not of a few pairs, nor of pairs that all differ by the same."""
    return len(differences_N) >= FEWEST and float(np.ptp(differences_N)) > NO_SPREAD


def corrected(rows: pd.DataFrame, p: str) -> pd.DataFrame:
    """Return the rows with a column `P_holm`: column p corrected for all rows by Holm's procedure."""
    from statsmodels.stats.multitest import multipletests

    known = rows[p].notna()
    by_holm = pd.Series(float("nan"), index=rows.index)
    if known.any():
        by_holm[known] = multipletests(rows.loc[known, p].astype(float), alpha=ALPHA, method="holm")[1]
    return rows.assign(**{f"{p}_holm": by_holm})


def _paired(pairs: pd.DataFrame, column: str) -> dict[str, float]:
    each = (pairs[column] - pairs[f"{column}_of_baseline"]).to_numpy()
    if not len(each):
        nothing = dict.fromkeys(("difference", "low", "high", "p", "deviation"), float("nan"))
        return {**nothing, "n": 0}
    mean = mean_interval(each.tolist())
    deviation = float(each.std(ddof=1)) if is_tested(each) else float("nan")
    both = {"difference": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "p": p_of(each)}
    return both | {"deviation": deviation}
