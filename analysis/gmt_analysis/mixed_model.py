"""Differences to the baseline over all tasks, by a linear mixed model."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gmt_analysis.choices import Baseline, named, scores_of
from gmt_analysis.paired import NO_SPREAD, corrected
from gmt_analysis.power import ALPHA, FEWEST, detectable_difference


def over_tasks(table: pd.DataFrame, column: str, *, baseline: str) -> pd.DataFrame:
    """Each choice less the baseline over all tasks: a linear mixed model with a random intercept for each task's seed.

    `column ~ choice + task`, by restricted maximum likelihood; what tasks have in common is what is asked for, so their
    own means are fixed effects. Each choice has a model of its own with the baseline: some vary far more over seeds
    than others, and one residual variance for all would be too small for these and too large for the rest.

    Returns:
        A row for each arm and value of the axis but the baseline: `difference`, `low`, `high`, `p` (by t with the
        degrees of freedom that are left within groups), `p_holm`, `n` runs, and `detectable`, as in `differences`. A
        choice with fewer than three pairs, or no spread, for which there is no such model, has `n` only. Empty without
        a baseline.
    """
    scores = scores_of(table, column)
    scores = scores.assign(
        choice=[named(arm, value) for arm, value in zip(scores["arm"], scores["axis"], strict=True)],
        group=scores["task"].astype(str) + " " + scores["seed"].astype(str),
        score=scores[column],
    )
    others = scores[scores["arm"] != baseline].groupby("choice", sort=False)
    rows = []
    if baseline in set(scores["arm"]):
        held = Baseline.of(table, baseline)
        for name, own in others:
            pair = pd.concat([held.runs(scores, own["axis"].iloc[0]), own]).sort_index()
            rows.append(_mixed(pair, str(name), others.ngroups))
    made = pd.DataFrame(rows, columns=["choice", "difference", "low", "high", "p", "n", "detectable"])
    return corrected(made, "p")


def _mixed(pair: pd.DataFrame, name: str, num_comparisons: int) -> dict[str, Any]:
    """Of the rows of a choice and the baseline."""
    import statsmodels.formula.api as smf

    own = pair["choice"] == name
    found = {"choice": name, "n": int(own.sum())}
    num_pairs = len(pair) - pair["group"].nunique()
    if num_pairs < FEWEST:
        return found
    formula = "score ~ chosen" + (" + C(task)" if pair["task"].nunique() > 1 else "")
    model = smf.mixedlm(formula, pair.assign(chosen=own.astype(float)), groups=pair["group"])
    fitted = next((each for method in ("lbfgs", "powell", "nm") if (each := _fitted(model, method)) is not None), None)
    if fitted is None or not fitted.bse["chosen"] > NO_SPREAD:
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
