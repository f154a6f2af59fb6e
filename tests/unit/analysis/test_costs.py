"""Costs compare like with like: a worker's cold start is in no median."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.costs import TIMES, cost_ratios, costs_of_choices, costs_of_runs, is_shared

from gmt.axis import Axis
from gmt.tracking.series import read_series
from gmt.tracking.table import read_table
from tests.finished import finish, plan_of


def test_the_first_logged_steps_and_a_slow_start_are_in_no_median(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1, 2, 3])
    for planned in plan.runs:
        finish(planned, 0.5)
        for step, seconds in ((10, 9.0), (20, 0.3 if planned.run.seed == 1 else 0.1), (30, 0.1), (40, 0.1)):
            planned.record.append_metrics(step, dict.fromkeys(TIMES, seconds))
        planned.record.finish()
    runs = [(p.point.arm, p.point.label, p.record) for p in plan.runs]
    table = read_table(runs, axis=Axis())
    costs = costs_of_runs(table, read_series(runs, TIMES, axis=Axis()))
    assert costs["forward_backward_s"].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert costs["tokens_per_s"].tolist() == pytest.approx([500.0] * 3)
    (choice,) = costs_of_choices(costs).to_dict("records")
    assert (choice["n"], choice["mask_s"], choice["mask_s_most"]) == (3, pytest.approx(0.1), pytest.approx(0.1))
    unlogged = costs_of_runs(table, read_series(runs, ["other"], axis=Axis()))
    assert unlogged["forward_backward_s"].tolist() == pytest.approx([0.12] * 3)  # the means of the record


@pytest.mark.parametrize(("beside", "shared"), [([0, 0], False), ([0, 1], True), ([0, None], True)])
def test_a_machine_is_shared_unless_every_run_was_alone(beside: list[int | None], *, shared: bool) -> None:
    table = pd.DataFrame({"state": "done", "runs_beside": pd.array(beside, dtype="Int64")})
    failed = pd.DataFrame({"state": ["failed"], "runs_beside": pd.array([3], dtype="Int64")})
    assert is_shared(pd.concat([table, failed])) is shared


def test_a_step_that_takes_as_long_is_shown_to_within_the_margin() -> None:
    """By hand: ratios 1.01, 1.00 and 0.99 on three seeds; their logarithms have mean 0 and deviation 0.01."""
    seconds = {"sft": [1.0, 2.0, 4.0], "gmt": [1.01, 2.0, 4 * 0.99], "rmt": [1.5, 3.1, 6.0]}
    rows = [(arm, seed + 1, value) for arm, values in seconds.items() for seed, value in enumerate(values)]
    runs = pd.DataFrame(rows, columns=["arm", "seed", "optimizer_s"])
    runs = runs.assign(task="t", axis=pd.NA, forward_backward_s=0.0, mask_s=0.0)
    gmt, rmt = cost_ratios(runs, "sft", within=0.05).to_dict("records")
    assert gmt["ratio"] == pytest.approx(1, abs=1e-4)
    assert (gmt["low"], gmt["high"]) == pytest.approx(
        (1 / 1.017, 1.017), abs=1e-3
    )  # t of 2 degrees: 2.92 * 0.01 / 3**0.5
    assert gmt["p_within"] < 0.05 < rmt["p_within"]
    assert rmt["ratio"] == pytest.approx(1.516, abs=1e-3)


@pytest.mark.parametrize("num_seeds", [3, 5, 20])
def test_steps_that_take_longer_by_the_margin_pass_as_equal_in_5_percent_of_studies(num_seeds: int) -> None:
    """Each task stands for a study. Times vary by 1 %, so that intervals are narrower than the margin."""
    num_studies = 500
    shape = (2, num_studies, num_seeds)
    seconds = np.exp(np.random.default_rng(0).normal(size=shape) * 0.01) * np.array([1, 1.05])[:, None, None]
    arm, task, seed = (places.ravel() for places in np.indices(shape))
    runs = pd.DataFrame({"arm": np.array(["sft", "gmt"])[arm], "task": task, "seed": seed, "axis": pd.NA})
    runs = runs.assign(optimizer_s=seconds.ravel(), forward_backward_s=0.0, mask_s=0.0)
    found = cost_ratios(runs, "sft", within=0.05)
    assert (found["p_within"] < 0.05).mean() == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / num_studies) ** 0.5)
    assert ((found["low"] > 1.05) | (found["high"] < 1.05)).mean() == pytest.approx(0.1, abs=0.04)  # 90 % intervals
