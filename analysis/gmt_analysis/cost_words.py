"""Sentences for the report on how its times were measured."""

import pandas as pd

_MEDIANS = (
    "Times of a step's parts are wall-clock medians over the logs of a run without the first log, whose steps are "
    "slower; a log holds the mean over the steps since the log before it. A run with fewer than two logs has its mean"
)


def costs_in_words(table: pd.DataFrame) -> list[str]:
    """Return sentences on the times of finished runs: which steps are left out, which runs shared a machine.

    Args:
        table: the typed table of the study.
    """
    done = table[table["state"] == "done"]
    return [_on_cold_steps(done), _on_shared_machines(done)]


def _on_cold_steps(done: pd.DataFrame) -> str:
    counted = done[done["num_cold_steps"].notna()]
    cold = int(counted["num_cold_steps"].sum())
    if counted.empty or not cold:
        return f"{_MEDIANS} over all steps."
    most = int(counted["num_cold_steps"].max())
    words = (
        f"{_MEDIANS} without the first steps of each attempt: {cold:,} of {int(counted['num_steps'].sum()):,} steps "
        f"are left out, at most {most} of a run."
    )
    older = len(done) - len(counted)
    runs = "run" if older == 1 else "runs"
    return words + (f" The times of {older} older {runs} include the first steps." if older else "")


def _on_shared_machines(done: pd.DataFrame) -> str:
    known = done[done["runs_beside"].notna()]
    beside = known[known["runs_beside"] > 0]
    if known.empty:
        return "Whether other runs were at work on the same machine is not known."
    if beside.empty:
        return "No other run of this study was at work on the same machine at the same time."
    return (
        f"{len(beside)} of {len(done)} runs shared their machine with other runs of this study, up to "
        f"{int(beside['runs_beside'].max())} during one run. Their times include waits for the other runs, so that "
        "differences of a few per cent mean nothing. To measure times, sweep one run at a time, or see benchmarks/."
    )
