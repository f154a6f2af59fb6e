"""Comparisons between arms and ratios: differences on the same seed, equivalence, sensitivity, power.

Everything here takes the typed table of a study (gmt.tracking.table), of which only finished runs count, and a column
of it; differences are in the units of that column. The runs of two choices on the same seed are a pair.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from gmt.errors import UserError
from gmt_analysis.statistics import CONFIDENCE, mean_interval

ALPHA = 1 - CONFIDENCE
POWER = 0.8
CHOICE = ["arm", "task", "mask_ratio"]
_FEWEST = 3  # pairs that are tested: scores come in steps of one question, and two pairs often differ all by the same
_SLICES = 20_000
_NO_SPREAD = 1e-12  # of scores in [0, 1]: what rounding leaves


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a study shows of an arm's sensitivity to its mask ratio on one task.

    Args:
        arm, task: of which.
        num_ratios, num_seeds: that are compared; seeds that every ratio has.
        best: the ratio with the best mean.
        index: the range of the means over ratios, in units of the seeds' standard deviation at a ratio; NaN where
            there is none.
        detectable: the smallest difference between two ratios that the study finds with a power of POWER, with the
            level shared out over all pairs.
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
        two-sided paired t test, `p_holm`, corrected for all rows (Holm, 1979), and `detectable`: the smallest
        difference found with a power of POWER, with the level shared out over all rows. With fewer than three pairs,
        or pairs that all differ by the same, there is no test and p is missing.

    Raises:
        UserError: the study has no such arm, or it has mask ratios.
    """
    scores = _scores(table, column)
    if baseline not in set(scores["arm"]):
        raise UserError(f"study.baseline must be an arm with finished runs, got {baseline!r}")
    if scores.loc[scores["arm"] == baseline, "mask_ratio"].notna().any():
        raise UserError(f"study.baseline must be an arm without mask ratios, got {baseline!r}")
    rows = []
    for (arm, task, ratio), group in scores[scores["arm"] != baseline].groupby(CHOICE, dropna=False, sort=False):
        base = scores[(scores["arm"] == baseline) & (scores["task"] == task)]
        pairs = group.merge(base, on="seed", suffixes=("", "_of_baseline"))
        rows.append({"arm": arm, "task": task, "mask_ratio": ratio, **_paired(pairs, column)})
    made = pd.DataFrame(rows, columns=[*CHOICE, "difference", "low", "high", "n", "p", "deviation"])
    detectable = [
        detectable_difference(float(each), int(n), num_comparisons=len(made))
        for each, n in zip(made["deviation"], made["n"], strict=True)
    ]
    return _corrected(made.drop(columns="deviation"), "p").assign(detectable=detectable)


def against_best(table: pd.DataFrame, column: str, *, margin: float, more_is_better: bool = True) -> pd.DataFrame:
    """Every ratio of an arm against the arm's best on the same seed: is it worse, is it equivalent within the margin?

    The best is chosen by the same data, which makes the others look worse by chance: equivalence is claimed too seldom
    rather than too often, and for differences the level is shared out over all pairs of ratios, whichever is the best.

    Args:
        table: of a study.
        column: what is compared.
        margin: differences smaller than this do not matter; in the units of the column, above 0.
        more_is_better: whether the best is the largest.

    Returns:
        A row for each arm with ratios, task and ratio but the best: `best`, `difference` with `low` and `high`, `n`,
        `p` as in `differences`, `p_pairs`: p times the number of pairs of ratios (Bonferroni), and `p_equivalent` of
        two one-sided paired t tests (Schuirmann, 1987). That all ratios are equivalent is shown where each one's is
        below the level, uncorrected (Berger, 1982).

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
            tests, num_pairs = pd.DataFrame(rows), wide.shape[1] * (wide.shape[1] - 1) / 2
            found.append(tests.assign(p_pairs=(tests["p"] * num_pairs).clip(upper=1)))
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
                    num_comparisons=wide.shape[1] * (wide.shape[1] - 1) // 2 or 1,
                ),
                words=_words(own, wide) + _left_out(table, arm, task),
            )
        )
    return verdicts


def detectable_difference(deviation: float, num_pairs: int, *, num_comparisons: int = 1) -> float:
    """The smallest mean difference that a paired t test finds with a power of POWER.

    Args:
        deviation: the standard deviation of a pair's difference.
        num_pairs: how many there are.
        num_comparisons: among how many tests the level is shared (Bonferroni).

    Returns:
        In the units of the deviation; NaN for fewer than three pairs, which are not tested.
    """
    if num_pairs < _FEWEST or not np.isfinite(deviation):
        return float("nan")
    return _detectable_size(num_pairs, num_comparisons) * deviation


@cache
def _detectable_size(num_pairs: int, num_comparisons: int) -> float:
    """In units of the deviation."""
    freedom, level = num_pairs - 1, ALPHA / num_comparisons
    critical = stats.t.isf(level / 2, freedom)
    # statsmodels' power fails for few pairs: this is the mean over the deviation that a study estimates, which is
    # distributed as chi, at the middles of equally likely slices
    middles = (np.arange(_SLICES) + 0.5) / _SLICES
    limit_S = critical * stats.chi.ppf(middles, freedom) / np.sqrt(freedom)

    def lacking(size: float) -> float:
        shift = size * np.sqrt(num_pairs)
        return float((stats.norm.sf(limit_S - shift) + stats.norm.cdf(-limit_S - shift)).mean()) - POWER

    return float(optimize.brentq(lacking, 0, 10 * critical))


def over_tasks(table: pd.DataFrame, column: str, *, baseline: str) -> pd.DataFrame:
    """Each choice less the baseline over all tasks: a linear mixed model with a random intercept for each task's seed.

    `column ~ choice + task`, by restricted maximum likelihood; what tasks have in common is what is asked for, so their
    own means are fixed effects. Each choice has a model of its own with the baseline: some vary far more over seeds
    than others, and one residual variance for all would be too small for these and too large for the rest.

    Returns:
        A row for each arm and ratio but the baseline: `difference`, `low`, `high`, `p` (by t with the degrees of
        freedom that are left within groups), `p_holm`, `n` runs, and `detectable`, as in `differences`. A choice with
        fewer than three pairs, or no spread, for which there is no such model, has `n` only. Empty without a baseline.
    """
    scores = _scores(table, column)
    scores = scores.assign(
        choice=[named(arm, ratio) for arm, ratio in zip(scores["arm"], scores["mask_ratio"], strict=True)],
        group=scores["task"].astype(str) + " " + scores["seed"].astype(str),
        score=scores[column],
    )
    names = [name for name in dict.fromkeys(scores["choice"]) if name != baseline]
    is_baseline = scores["choice"] == baseline
    rows = [_mixed(scores[is_baseline | (scores["choice"] == name)], name, len(names)) for name in names]
    made = pd.DataFrame(
        rows if is_baseline.any() else [], columns=["choice", "difference", "low", "high", "p", "n", "detectable"]
    )
    return _corrected(made, "p")


def _mixed(pair: pd.DataFrame, name: str, num_comparisons: int) -> dict[str, Any]:
    """Of the rows of a choice and the baseline."""
    import statsmodels.formula.api as smf

    own = pair["choice"] == name
    found = {"choice": name, "n": int(own.sum())}
    num_pairs = len(pair) - pair["group"].nunique()
    if num_pairs < _FEWEST:
        return found
    formula = "score ~ chosen" + (" + C(task)" if pair["task"].nunique() > 1 else "")
    model = smf.mixedlm(formula, pair.assign(chosen=own.astype(float)), groups=pair["group"])
    fitted = next((each for method in ("lbfgs", "powell", "nm") if (each := _fitted(model, method)) is not None), None)
    if fitted is None or not fitted.bse["chosen"] > _NO_SPREAD:
        return found
    estimate, error = float(fitted.params["chosen"]), float(fitted.bse["chosen"])
    half = stats.t.isf(ALPHA / 2, num_pairs - 1) * error
    return found | {
        "difference": estimate,
        "low": estimate - half,
        "high": estimate + half,
        "p": 2 * stats.t.sf(abs(estimate) / error, num_pairs - 1),
        "detectable": detectable_difference(error * num_pairs**0.5, num_pairs, num_comparisons=num_comparisons),
    }


def _fitted(model: Any, method: str) -> Any:
    """By restricted maximum likelihood; None if the method does not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a variance is at its bound of 0, or that the method did not converge
        try:
            fitted = model.fit(reml=True, method=[method])
        except np.linalg.LinAlgError:
            return None
    return fitted if fitted.converged else None


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
        nothing = dict.fromkeys(("difference", "low", "high", "p", "deviation"), float("nan"))
        return {**nothing, "n": 0}
    mean = mean_interval(each.tolist())
    deviation = float(each.std(ddof=1)) if _is_tested(each) else float("nan")
    both = {"difference": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "p": _p(each)}
    return both | {"deviation": deviation}


def _tested(each: np.ndarray, margin: float) -> dict[str, float]:
    mean = mean_interval(each.tolist())
    both = {"difference": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "p": _p(each)}
    return both | {"p_equivalent": _p_equivalent(each, margin)}


def _p(each: np.ndarray) -> float:
    """Of Student's two-sided test that the mean difference is 0; NaN where there is no test."""
    return float(stats.ttest_1samp(each, 0).pvalue) if _is_tested(each) else float("nan")


def _p_equivalent(each: np.ndarray, margin: float) -> float:
    if not _is_tested(each):
        return float("nan")
    below = stats.ttest_1samp(each, -margin, alternative="greater").pvalue
    above = stats.ttest_1samp(each, margin, alternative="less").pvalue
    return float(max(below, above))


def _is_tested(each: np.ndarray) -> bool:
    """There is no t of a few pairs, nor of pairs that all differ by the same."""
    return len(each) >= _FEWEST and float(np.ptp(each)) > _NO_SPREAD


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
        return f"{len(wide)} seed{'s' if len(wide) > 1 else ''}: nothing is said of sensitivity"
    if tests["p"].isna().all():
        return "no spread between seeds: nothing is tested"
    equivalent, worse = tests["p_equivalent"] < ALPHA, tests["p_pairs"] < ALPHA
    if equivalent.all():
        return "every ratio is equivalent to the best within the margin"
    different = ", ".join(f"{ratio:g}" for ratio in tests.loc[worse & ~equivalent, "mask_ratio"])
    if different:
        return f"sensitive: worse than the best at {different}"
    return "no difference to the best shown at any ratio, nor equivalence within the margin at every ratio"


def _left_out(table: pd.DataFrame, arm: object, task: object) -> str:
    """What the words before do not speak of: ratios whose runs diverged, or are not done."""
    own = table[(table["arm"] == arm) & (table["task"] == task) & table["mask_ratio"].notna()]
    told = []
    for words, rows in {
        "diverged": own[own["state"] == "diverged"],
        "not done": own[~own["state"].isin(["done", "diverged"])],
    }.items():
        if len(rows):
            told.append(f"{words} at {', '.join(f'{ratio:g}' for ratio in sorted(rows['mask_ratio'].unique()))}")
    return f" (left out: runs that are {'; '.join(told)})" if told else ""


def named(arm: object, ratio: float) -> str:
    """An arm at a mask ratio, e.g. `gmt 0.5`; without one, the arm."""
    return str(arm) if pd.isna(ratio) else f"{arm} {ratio:g}"
