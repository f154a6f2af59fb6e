"""Costs of arms: medians over runs, without the slow steps at the start of a worker.

The first run of a worker begins while other workers start, and the first steps of every attempt load libraries. A run's
time of a part is therefore the median over its logs without the first one; a log holds the mean over the steps since
the log before it.
"""

import numpy as np
import pandas as pd

from gmt.verdicts.intervals import moments, p_within, t_limit
from gmt_analysis.choices import CHOICE

PARTS = ("forward_backward_s", "mask_s", "optimizer_s")
TIMES = tuple(f"time/{part}" for part in PARTS)  # as runs log them
COSTS = (
    *PARTS,
    "tokens_per_s",
    "train_s",
    "peak_memory_bytes",
    "optimizer_state_bytes",
    "num_trained",
    "num_touched",
)


def costs_of_runs(table: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each finished run that has trained: CHOICE, `run_id`, `seed` and COSTS.

    Args:
        table: the typed table of a study.
        series: its logged metrics, with TIMES. A run with fewer than two logs has the means of the table.
    """
    done = table[(table["state"] == "done") & table["train_s"].notna()]
    speed = done["num_tokens"] / done["train_s"]
    runs = done.assign(tokens_per_s=speed)[[*CHOICE, "run_id", "seed", *COSTS]].astype(dict.fromkeys(COSTS, "Float64"))
    times = series[series["name"].isin(TIMES)]
    first = times.groupby("run_id")["step"].transform("min")
    medians = times[times["step"] > first].groupby(["run_id", "name"])["value"].median().unstack("name")
    for part, name in zip(PARTS, TIMES, strict=True):
        if name in medians:
            runs[part] = runs["run_id"].map(medians[name]).astype("Float64").fillna(runs[part])
    return runs


def costs_of_choices(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the median, minimum (`_least`) and maximum (`_most`) of COSTS over the runs of each choice, and `n`."""
    groups = runs.groupby(CHOICE, dropna=False, sort=False)
    medians = groups[list(COSTS)].median()
    ends = {"least": groups[list(COSTS)].min(), "most": groups[list(COSTS)].max()}
    columns = [medians, *(frame.add_suffix(f"_{end}") for end, frame in ends.items()), groups.size().rename("n")]
    return pd.concat(columns, axis=1).reset_index()


def cost_ratios(runs: pd.DataFrame, baseline: str, *, within: float) -> pd.DataFrame:
    """Return the ratio of each choice's step time to the baseline's, with a test that both are equivalent.

    The ratio is the geometric mean over pairs of runs on the same seed. If the baseline has several runs on a seed,
    since it has several values of the axis, their median counts.

    Args:
        runs: from `costs_of_runs`.
        baseline: the baseline arm.
        within: the largest difference that does not matter, a fraction.

    Returns:
        A row for each choice: CHOICE, n, `ratio`, the bounds `low` and `high` of its 90 % interval, and `p_within`, the
        p of two one-sided t tests: a small one shows that the ratio lies between 1 / (1 + within) and 1 + within. NaN
        with fewer than three seeds or without spread.
    """
    logs = runs.assign(log=np.log(runs[list(PARTS)].sum(axis=1).astype(float)))
    baseline_logs = logs[logs["arm"] == baseline].groupby(["task", "seed"])["log"].median()
    rows = []
    for (arm, task, value), group in logs[logs["arm"] != baseline].groupby(CHOICE, dropna=False, sort=False):
        by_seed = group.set_index("seed")["log"] - baseline_logs.get(task, pd.Series(dtype=float))
        sample = moments(by_seed.dropna().to_numpy(float)[:, None])
        half = t_limit(0.05, sample.freedom_K)[0] * sample.error_K[0]
        low, ratio, high = (float(np.exp(sample.mean_K[0] + side * half)) for side in (-1, 0, 1))
        p = float(p_within(sample, float(np.log1p(within)))[0])
        row = {"n": int(sample.n_K[0]), "ratio": ratio, "low": low, "high": high, "p_within": p}
        rows.append({"arm": arm, "task": task, "axis": value, **row})
    return pd.DataFrame(rows, columns=[*CHOICE, "n", "ratio", "low", "high", "p_within"])


def is_shared(table: pd.DataFrame) -> bool:
    """Return whether some finished run shared its machine with other runs, or its record does not tell."""
    beside = table.loc[table["state"] == "done", "runs_beside"]
    return bool(beside.isna().any() or (beside > 0).any())
