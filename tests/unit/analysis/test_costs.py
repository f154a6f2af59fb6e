"""Costs compare like with like: a worker's cold start is in no median."""

from pathlib import Path

import pandas as pd
import pytest
from gmt_analysis.costs import TIMES, costs_of_choices, costs_of_runs, is_shared

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
