"""The variance components of a paired difference: seeds, training data, questions and bases.

A study that draws training data, questions or the base anew crosses these with its seeds. Other tables treat each draw
as a task; this module compares the draws of one task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gmt.verdicts.intervals import Floats
from gmt.verdicts.words import join
from gmt_analysis.choices import CHOICE, Baseline

SEED = "seed"
DRAWS = {"data_seed": "training data", "question_seed": "questions", "model": "bases"}  # column -> words
_BY_DATA = -1  # in place of a missing question_seed, when data_seed draws the questions too


def variation(runs: pd.DataFrame, column: str, *, baseline: str) -> pd.DataFrame:
    """Return the parts of the variance of each choice's difference to the baseline, by the method of moments.

    A pair has the same seed, training data, questions and base. Only seeds with every combination of a task's draws
    count.

    Args:
        runs: the typed table of a study (gmt.tracking.table), with the tasks' own names; only finished runs count.
        column: the compared score.
        baseline: the baseline arm.

    Returns:
        A row for each choice on a task with at least two draws and two seeds: CHOICE; `difference`, the mean; for SEED
        and each of DRAWS that varies, its number of values `num_NAME` and its standard deviation `deviation_NAME`, 0 if
        the variance is estimated below 0; `deviation_rest`, the residual standard deviation; and `error`, the standard
        error of the mean if all of these were drawn anew. Empty without draws.
    """
    done = runs[(runs["state"] == "done") & runs[[column, SEED]].notna().all(axis=1)]
    rows = []
    if baseline in set(done["arm"]):
        base = Baseline.from_table(runs, baseline)
        for task, of_task in done.groupby("task", sort=False):
            factors = [SEED, *names_of_draws(of_task)]
            drawn = of_task.assign(question_seed=of_task["question_seed"].astype("Int64").fillna(_BY_DATA))
            others = drawn[drawn["arm"] != baseline]
            for (arm, value), group in others.groupby(["arm", "axis"], dropna=False, sort=False):
                base_runs = base.runs(drawn, group["axis"].astype(float).iloc[0])
                differences = _by_factors(group, column, factors) - _by_factors(base_runs, column, factors)
                if len(factors) > 1 and (row := _parts(differences.dropna())):
                    rows.append({"arm": arm, "task": task, "axis": value, **row})
    return pd.DataFrame(rows, columns=None if rows else [*CHOICE, "difference", "deviation_rest", "error"])


def split_variance(values: Floats) -> tuple[list[float], float]:
    """Return the variance components of F crossed random factors and the residual variance, by the method of moments.

    The model is mean + one effect for each factor + residual, with one value in each cell (Searle, Casella and
    McCulloch, "Variance Components", 1992, Chapter 4): the expected mean square of a factor is the residual variance
    plus the factor's variance times the number of values at a level. An estimate may lie below 0.

    Args:
        values: an array with a dimension of at least two levels for each factor.
    """
    mean, squares, freedom = values.mean(), [], values.size - 1
    for place, num_levels in enumerate(values.shape):
        level_means = values.mean(axis=tuple(other for other in range(values.ndim) if other != place))
        squares.append(values.size / num_levels * float(((level_means - mean) ** 2).sum()))
        freedom -= num_levels - 1
    residual = max(float(((values - mean) ** 2).sum()) - sum(squares), 0.0) / freedom
    parts = [
        (square / (num_levels - 1) - residual) * num_levels / values.size
        for square, num_levels in zip(squares, values.shape, strict=True)
    ]
    return parts, residual


def names_of_draws(runs: pd.DataFrame) -> dict[str, str]:
    """Return the columns of DRAWS in which runs of one task differ, with their words.

    Empty if only some runs draw their questions by data_seed: such draws are not crossed with the others.
    """
    varied = {name: words for name, words in DRAWS.items() if runs[name].nunique(dropna=False) > 1}
    is_by_data = runs["question_seed"].isna()
    if "data_seed" in varied and is_by_data.any():
        return {**varied, "data_seed": "training data with their questions"} if is_by_data.all() else {}
    return varied


def draws_in_words(runs: pd.DataFrame) -> str:
    """Return a sentence on what intervals are about in a study with several draws; empty for any other study.

    Args:
        runs: as in `variation`.
    """
    by_task = runs.groupby("task", sort=False)
    words = {name: word for _, group in by_task for name, word in names_of_draws(group).items()}
    if not words:
        return ""
    return (
        f"Each draw of {join(list(words.values()))} counts as a task: the intervals are about other seeds with the "
        "draws of this study, and the table of variation estimates how much other draws would add."
    )


def _by_factors(runs: pd.DataFrame, column: str, factors: Sequence[str]) -> pd.Series[Any]:
    return runs.set_index(list(factors))[column].astype(float)


def _parts(differences: pd.Series[Any]) -> Mapping[str, float | int]:
    """Return the row of a choice without its names; empty where fewer than two seeds have all combinations of draws."""
    factors = [str(name) for name in differences.index.names]
    wide = differences.unstack(factors[1:]).dropna()
    shape = [len(wide), *(differences.index.get_level_values(name).nunique() for name in factors[1:])]
    if len(wide) < 2 or min(shape) < 2 or wide.size != int(np.prod(shape)):
        return {}
    ordered = wide.sort_index(axis=1).to_numpy(dtype=float).reshape(shape)
    parts, residual = split_variance(ordered)
    row: dict[str, float | int] = {"difference": float(ordered.mean())}
    for name, part, number in zip(factors, parts, shape, strict=True):
        row |= {f"num_{name}": number, f"deviation_{name}": max(part, 0.0) ** 0.5}
    variance = sum(max(part, 0.0) / number for part, number in zip(parts, shape, strict=True)) + residual / ordered.size
    return row | {"deviation_rest": residual**0.5, "error": variance**0.5}
