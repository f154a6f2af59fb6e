"""Comparisons between arms and ratios: differences on the same seed, equivalence, sensitivity, power.

Everything here takes the typed table of a study (gmt.tracking.table), of which only finished runs count, and a column
of it; differences are in the units of that column. The runs of two choices on the same seed are a pair.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gmt.errors import UserError
from gmt_analysis.statistics import CONFIDENCE, mean_interval

ALPHA = 1 - CONFIDENCE
POWER = 0.8
CHOICE = ["arm", "task", "mask_ratio"]
_FEWEST = 2  # pairs: one has no spread


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a study shows of an arm's sensitivity to its mask ratio on one task.

    Args:
        arm, task: of which.
        num_ratios, num_seeds: that are compared; seeds that every ratio has.
        best: the ratio with the best mean.
        index: the range of the means over ratios, in units of the seeds' standard deviation at a ratio; NaN where
            there is none.
        detectable: the smallest difference between a ratio and the best that the study finds with a power of POWER,
            after the correction for all ratios.
        words: what the tests say, and no more.
    """

    arm: str
    task: str
    num_ratios: int
    num_seeds: int
    best: float
    index: float
    detectable: float
    words: str


def differences(table: pd.DataFrame, column: str, *, baseline: str) -> pd.DataFrame:
    """Each choice less the baseline on the same seed, with a t interval, and Student's paired test.

    Args:
        table: of a study.
        column: what is compared.
        baseline: an arm without ratios, e.g. `sft`.

    Returns:
        A row for each other arm, task and ratio: `difference`, its bounds `low` and `high`, `n` pairs, `p` of the
        two-sided paired t test, and `p_holm`, corrected for all rows (Holm, 1979). With fewer than two pairs the
        bounds and p are missing.

    Raises:
        UserError: the study has no such arm.
    """
    scores = _scores(table, column)
    if baseline not in set(scores["arm"]):
        raise UserError(f"the baseline must be an arm with finished runs, got {baseline!r}")
    rows = []
    for (arm, task, ratio), group in scores[scores["arm"] != baseline].groupby(CHOICE, dropna=False, sort=False):
        base = scores[(scores["arm"] == baseline) & (scores["task"] == task)]
        pairs = group.merge(base, on="seed", suffixes=("", "_of_baseline"))
        rows.append({"arm": arm, "task": task, "mask_ratio": ratio, **_paired(pairs, column)})
    return _corrected(pd.DataFrame(rows, columns=[*CHOICE, "difference", "low", "high", "n", "p"]), "p")


def against_best(table: pd.DataFrame, column: str, *, margin: float, more_is_better: bool = True) -> pd.DataFrame:
    """Every ratio of an arm against the arm's best on the same seed: is it worse, is it equivalent within the margin?

    The best is chosen by the same data. That makes the others look worse by chance, so that equivalence is claimed too
    seldom rather than too often, and a difference too often: its p is no proof where the index is small.

    Args:
        table: of a study.
        column: what is compared.
        margin: differences smaller than this do not matter; in the units of the column, above 0.
        more_is_better: whether the best is the largest.

    Returns:
        A row for each arm with ratios, task and ratio but the best: `best`, `difference` with `low` and `high`, `n`,
        `p` as in `differences`, `p_equivalent` of two one-sided paired t tests (Schuirmann, 1987), and both corrected
        for all ratios of the arm and task (Holm, 1979) as `p_holm` and `p_equivalent_holm`.

    Raises:
        UserError: the margin is not above 0.
    """
    if not margin > 0:
        raise UserError(f"the margin of equivalence must be above 0, got {margin}")
    found = []
    for (arm, task), group in _with_ratios(table, column):
        wide = _seeds_by_ratios(group, column)
        if wide.empty:
            continue
        best = _best(wide, more_is_better)
        rows = [
            {"arm": arm, "task": task, "mask_ratio": ratio, "best": best} | _tested(each, margin)
            for ratio, each in _to_best(wide, best).items()
        ]
        if rows:
            found.append(_corrected(_corrected(pd.DataFrame(rows), "p"), "p_equivalent"))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def sensitivity(table: pd.DataFrame, column: str, *, margin: float, more_is_better: bool = True) -> list[Verdict]:
    """What the study shows of each arm with ratios on each task; arguments as of `against_best`."""
    tests = against_best(table, column, margin=margin, more_is_better=more_is_better)
    verdicts = []
    for (arm, task), group in _with_ratios(table, column):
        wide = _seeds_by_ratios(group, column)
        if wide.empty:
            continue
        own = tests[(tests["arm"] == arm) & (tests["task"] == task)] if len(tests) else tests
        spread = float(np.sqrt(wide.var(ddof=1).mean())) if len(wide) > 1 else float("nan")
        means, best = wide.mean(), _best(wide, more_is_better)
        others = [each.var(ddof=1) for each in _to_best(wide, best).values()] if len(wide) > 1 else []
        verdicts.append(
            Verdict(
                arm=str(arm),
                task=str(task),
                num_ratios=wide.shape[1],
                num_seeds=len(wide),
                best=best,
                index=float(means.max() - means.min()) / spread if spread and others else float("nan"),
                detectable=detectable_difference(
                    float(np.sqrt(np.mean(others))) if others else float("nan"),
                    len(wide),
                    num_comparisons=max(len(others), 1),
                ),
                words=_words(own, wide),
            )
        )
    return verdicts


def detectable_difference(deviation: float, num_pairs: int, *, num_comparisons: int = 1) -> float:
    """The smallest mean difference that a paired t test finds with a power of POWER.

    Args:
        deviation: the standard deviation of a pair's difference.
        num_pairs: how many there are.
        num_comparisons: among how many tests the level is shared, as Bonferroni does, which Holm's first step is.

    Returns:
        In the units of the deviation; NaN for fewer than two pairs.
    """
    from statsmodels.stats.power import TTestPower

    if num_pairs < _FEWEST or not np.isfinite(deviation):
        return float("nan")
    size = TTestPower().solve_power(nobs=num_pairs, alpha=ALPHA / num_comparisons, power=POWER)
    return float(size) * deviation


def over_tasks(table: pd.DataFrame, column: str, *, baseline: str) -> pd.DataFrame:
    """Each choice less the baseline over all tasks: a linear mixed model with a random intercept for each task's seed.

    `column ~ choice + task`, by restricted maximum likelihood; what tasks have in common is what is asked for, so their
    own means are fixed effects.

    Returns:
        A row for each arm and ratio but the baseline: `difference`, `low`, `high` (Wald), `p`, `p_holm`, `n` runs.
        Empty where the study has one seed, one choice or no spread, for which there is no such model.
    """
    import statsmodels.formula.api as smf

    scores = _scores(table, column)
    scores = scores.assign(
        choice=[_named(arm, ratio) for arm, ratio in zip(scores["arm"], scores["mask_ratio"], strict=True)],
        group=scores["task"].astype(str) + " " + scores["seed"].astype(str),
        score=scores[column],
    )
    names = [name for name in dict.fromkeys(scores["choice"]) if name != baseline]
    empty = pd.DataFrame(columns=["choice", "difference", "low", "high", "p", "p_holm", "n"])
    if baseline not in set(scores["choice"]) or not names or scores["seed"].nunique() < _FEWEST:
        return empty
    formula = f"score ~ C(choice, Treatment({baseline!r}))" + (" + C(task)" if scores["task"].nunique() > 1 else "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a variance is at its bound of 0, which the estimates don't mind
        try:
            fitted = smf.mixedlm(formula, scores, groups=scores["group"]).fit(reml=True)
        except np.linalg.LinAlgError:
            return empty
    bounds, rows = fitted.conf_int(alpha=ALPHA), []
    for name in names:
        term = f"C(choice, Treatment({baseline!r}))[T.{name}]"
        low, high = bounds.loc[term]
        number = int((scores["choice"] == name).sum())
        estimate = {"difference": fitted.params[term], "low": low, "high": high, "p": fitted.pvalues[term]}
        rows.append({"choice": name, **estimate, "n": number})
    return _corrected(pd.DataFrame(rows), "p")


def _scores(table: pd.DataFrame, column: str) -> pd.DataFrame:
    done = table[(table["state"] == "done") & table[column].notna()]
    return done[[*CHOICE, "seed", column]].astype({column: float, "mask_ratio": float, "seed": int})


def _with_ratios(table: pd.DataFrame, column: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    scores = _scores(table, column)
    yield from scores[scores["mask_ratio"].notna()].groupby(["arm", "task"], sort=False)


def _seeds_by_ratios(group: pd.DataFrame, column: str) -> pd.DataFrame:
    """Only seeds that every ratio has."""
    return group.pivot_table(index="seed", columns="mask_ratio", values=column).dropna()


def _best(wide: pd.DataFrame, more_is_better: bool) -> float:
    means = wide.mean().to_numpy()
    return float(wide.columns.to_numpy()[means.argmax() if more_is_better else means.argmin()])


def _to_best(wide: pd.DataFrame, best: float) -> dict[float, np.ndarray]:
    """Each other ratio less the best, by seed."""
    of_best = wide[best].to_numpy()
    return {ratio: wide[ratio].to_numpy() - of_best for ratio in wide.columns.to_numpy() if ratio != best}


def _paired(pairs: pd.DataFrame, column: str) -> dict[str, float]:
    each = (pairs[column] - pairs[f"{column}_of_baseline"]).to_numpy()
    if not len(each):
        nothing = dict.fromkeys(("difference", "low", "high", "p"), float("nan"))
        return {**nothing, "n": 0}
    mean = mean_interval(each.tolist())
    return {"difference": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "p": _p(each)}


def _tested(each: np.ndarray, margin: float) -> dict[str, float]:
    mean = mean_interval(each.tolist())
    both = {"difference": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "p": _p(each)}
    return both | {"p_equivalent": _p_equivalent(each, margin)}


def _p(each: np.ndarray) -> float:
    """Of Student's two-sided test that the mean difference is 0; 1 where every pair is equal."""
    if len(each) < _FEWEST:
        return float("nan")
    if not each.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of pairs that differ all by the same
        return float(stats.ttest_1samp(each, 0).pvalue)


def _p_equivalent(each: np.ndarray, margin: float) -> float:
    if len(each) < _FEWEST:
        return float("nan")
    if not np.ptp(each):  # no spread, for which there is no t
        return float(abs(each[0]) >= margin)
    below = stats.ttest_1samp(each, -margin, alternative="greater").pvalue
    above = stats.ttest_1samp(each, margin, alternative="less").pvalue
    return float(max(below, above))


def _corrected(rows: pd.DataFrame, p: str) -> pd.DataFrame:
    from statsmodels.stats.multitest import multipletests

    known = rows[p].notna()
    corrected = pd.Series(float("nan"), index=rows.index)
    if known.any():
        corrected[known] = multipletests(rows.loc[known, p].astype(float), alpha=ALPHA, method="holm")[1]
    return rows.assign(**{f"{p}_holm": corrected})


def _words(tests: pd.DataFrame, wide: pd.DataFrame) -> str:
    if wide.shape[1] < 2:
        return "one ratio: nothing is said of sensitivity"
    if len(wide) < _FEWEST:
        return "one seed: nothing is said of sensitivity"
    equivalent, worse = (tests[f"{p}_holm"] < ALPHA for p in ("p_equivalent", "p"))
    if equivalent.all():
        return "every ratio is equivalent to the best within the margin"
    different = ", ".join(f"{ratio:g}" for ratio in tests.loc[worse & ~equivalent, "mask_ratio"])
    if different:
        return f"sensitive: worse than the best at {different}"
    return "no difference to the best shown at any ratio, nor equivalence within the margin at every ratio"


def _named(arm: str, ratio: float) -> str:
    return str(arm) if np.isnan(ratio) else f"{arm} {ratio:g}"
