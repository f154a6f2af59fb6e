"""A report says what its times leave out and what went on beside the runs."""

import pandas as pd
import pytest
from gmt_analysis.cost_words import costs_in_words


def table(cold: list[int | None], beside: list[int | None]) -> pd.DataFrame:
    rows = pd.DataFrame({"state": "done", "num_steps": 100, "num_cold_steps": cold, "runs_beside": beside})
    unfinished = pd.DataFrame({"state": ["failed"], "num_steps": [None], "num_cold_steps": [None], "runs_beside": [9]})
    return pd.concat([rows, unfinished]).astype(
        {"num_steps": "Int64", "num_cold_steps": "Int64", "runs_beside": "Int64"}
    )


@pytest.mark.parametrize(
    ("cold", "said"),
    [
        ([3, 6], "9 of 200 steps are left out, at most 6 of a run."),
        (
            [3, None],
            "3 of 100 steps are left out, at most 3 of a run. The times of 1 older run include the first steps.",
        ),
        ([None, None], "A run with fewer than two logs has its mean over all steps."),
        ([0, 0], "A run with fewer than two logs has its mean over all steps."),
    ],
)
def test_cold_steps_are_said(cold: list[int | None], said: str) -> None:
    assert costs_in_words(table(cold, [0, 0]))[0].endswith(said)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ([0, 0], "No other run of this study was at work on the same machine at the same time."),
        ([0, 3], "1 of 2 runs shared their machine with other runs of this study, up to 3 during one run. Their"),
        ([None, None], "Whether other runs were at work on the same machine is not known."),
    ],
)
def test_runs_beside_are_said(beside: list[int | None], said: str) -> None:
    assert costs_in_words(table([3, 3], beside))[1].startswith(said)
