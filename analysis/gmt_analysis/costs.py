"""What arms cost: medians over runs, each without the start of its worker.

The first run of a worker begins beside other workers' starts, and so do the first steps of every attempt. A run's
time of a part is therefore the median over its logged steps, without those before the first log.
"""

import pandas as pd

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
    """Return a row for each finished run that has trained: CHOICE, `run_id` and COSTS.

    Args:
        table: the typed table of a study.
        series: its logged metrics, with TIMES. A run with fewer than two logs has the means of the table.
    """
    done = table[(table["state"] == "done") & table["train_s"].notna()]
    speed = done["num_tokens"] / done["train_s"]
    runs = done.assign(tokens_per_s=speed)[[*CHOICE, "run_id", *COSTS]].astype(dict.fromkeys(COSTS, "Float64"))
    times = series[series["name"].isin(TIMES)]
    first = times.groupby("run_id")["step"].transform("min")
    typical = times[times["step"] > first].groupby(["run_id", "name"])["value"].median().unstack("name")
    for part, name in zip(PARTS, TIMES, strict=True):
        if name in typical:
            runs[part] = runs["run_id"].map(typical[name]).astype("Float64").fillna(runs[part])
    return runs


def costs_of_choices(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the median, the least (`_least`) and the most (`_most`) of COSTS over the runs of each choice, and `n`."""
    groups = runs.groupby(CHOICE, dropna=False, sort=False)
    medians = groups[list(COSTS)].median()
    ends = {"least": groups[list(COSTS)].min(), "most": groups[list(COSTS)].max()}
    columns = [medians, *(frame.add_suffix(f"_{end}") for end, frame in ends.items()), groups.size().rename("n")]
    return pd.concat(columns, axis=1).reset_index()


def is_shared(table: pd.DataFrame) -> bool:
    """Return whether some finished run had other runs at work on its machine, or nobody knows."""
    beside = table.loc[table["state"] == "done", "runs_beside"]
    return bool(beside.isna().any() or (beside > 0).any())
