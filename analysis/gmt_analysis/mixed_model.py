"""Differences to the baseline over all tasks, by a linear mixed model."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gmt_analysis.choices import Baseline, choice_name, scores_of
from gmt_analysis.paired import NO_SPREAD, corrected
from gmt_analysis.power import ALPHA, FEWEST, detectable_difference


def over_tasks(table: pd.DataFrame, column: str, *, baseline: str) -> pd.DataFrame:
    """Return each choice less the baseline over all tasks, by a linear mixed model.

    The model is `column ~ choice + task` with a random intercept for each task's seed, fitted by restricted maximum
    likelihood. The means of tasks are fixed effects, since the difference is estimated within tasks. Each choice has a
    model of its own with the baseline: some choices vary far more over seeds than others, and one residual variance for
    all would be too small for these and too large for the rest.

    Returns:
        A row for each arm and value of the axis but the baseline: `difference`, `low`, `high`, `p` (by t with the
        degrees of freedom within groups), `p_holm`, `n` runs, and `detectable`, as in `differences`. A choice with
        fewer than three pairs, or without spread, has no such model and only `n`. Empty without a baseline.
    """
    scores = scores_of(table, column)
    scores = scores.assign(
        choice=[choice_name(arm, value) for arm, value in zip(scores["arm"], scores["axis"], strict=True)],
        group=scores["task"].astype(str) + " " + scores["seed"].astype(str),
        score=scores[column],
    )
    others = scores[scores["arm"] != baseline].groupby("choice", sort=False)
    rows = []
    if baseline in set(scores["arm"]):
        base = Baseline.from_table(table, baseline)
        for name, own in others:
            pair = pd.concat([base.runs(scores, own["axis"].iloc[0]), own]).sort_index()
            rows.append(_fit_choice(pair, str(name), others.ngroups))
    fits = pd.DataFrame(rows, columns=["choice", "difference", "low", "high", "p", "n", "detectable"])
    return corrected(fits, "p")


def _fit_choice(pair: pd.DataFrame, name: str, num_comparisons: int) -> dict[str, Any]:
    """Return the row of one choice, from its runs and the baseline's."""
    import statsmodels.formula.api as smf

    own = pair["choice"] == name
    untested = {"choice": name, "n": int(own.sum())}
    num_pairs = len(pair) - pair["group"].nunique()
    if num_pairs < FEWEST:
        return untested
    formula = "score ~ chosen" + (" + C(task)" if pair["task"].nunique() > 1 else "")
    model = smf.mixedlm(formula, pair.assign(chosen=own.astype(float)), groups=pair["group"])
    fitted = next((fit for method in ("lbfgs", "powell", "nm") if (fit := _fit(model, method)) is not None), None)
    if fitted is None or not fitted.bse["chosen"] > NO_SPREAD:
        return untested
    estimate, error = float(fitted.params["chosen"]), float(fitted.bse["chosen"])
    half = stats.t.isf(ALPHA / 2, num_pairs - 1) * error
    return untested | {
        "difference": estimate,
        "low": estimate - half,
        "high": estimate + half,
        "p": 2 * stats.t.sf(abs(estimate) / error, num_pairs - 1),
        "detectable": detectable_difference(error * num_pairs**0.5, num_pairs, num_comparisons=num_comparisons),
    }


def _fit(model: Any, method: str) -> Any:
    """Return the model fitted by restricted maximum likelihood; None if the method does not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance is at its bound of 0, or the method did not converge
        try:
            fitted = model.fit(reml=True, method=[method])
        except np.linalg.LinAlgError:
            return None
    return fitted if fitted.converged else None
