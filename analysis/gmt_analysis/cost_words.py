"""Sentences for the report on how its times were measured."""

import pandas as pd


def costs_in_words(table: pd.DataFrame) -> list[str]:
    """Return sentences on the times of finished runs: which steps are left out, which runs shared a machine.

    Args:
        table: the typed table of the study.
    """
    done = table[table["state"] == "done"]
    return [_on_cold_steps(done), _on_runs_beside(done)]


def _on_cold_steps(done: pd.DataFrame) -> str:
    counted = done[done["num_cold_steps"].notna()]
    cold = int(counted["num_cold_steps"].sum())
    if counted.empty or not cold:
        return "Times are wall-clock means over all steps of each run, the first ones, which are slower, among them."
    most = int(counted["num_cold_steps"].max())
    words = (
        "Times are wall-clock means over the steps of each run, without the first ones of each attempt, which are "
        f"slower: {cold:,} of {int(counted['num_steps'].sum()):,} steps are left out, at most {most} of a run."
    )
    older = len(done) - len(counted)
    return words + (f" {older} older {'run has' if older == 1 else 'runs have'} them in." if older else "")


def _on_runs_beside(done: pd.DataFrame) -> str:
    known = done[done["runs_beside"].notna()]
    beside = known[known["runs_beside"] > 0]
    if known.empty:
        return "Whether other runs were at work on the same machine is not known."
    if beside.empty:
        return "No other run of this study was at work on the same machine at the same time."
    return (
        f"{len(beside)} of {len(done)} runs shared their machine with other runs of this study, up to "
        f"{int(beside['runs_beside'].max())} in the course of one run: such times include waiting for the "
        "others, and do not compare arms to a few percent. Sweep one run at a time for that, or see benchmarks/."
    )
