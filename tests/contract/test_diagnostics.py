"""Laws of every yaml in conf/diagnostic: it measures planted runs, and its rows are stored, read back and drawn."""

import math

import pytest
from gmt_analysis.report_figures import diagnostic_figures
from gmt_analysis.results import Results

from gmt.config_dir import config_dir
from gmt.diagnostics.protocol import ComparesRuns
from gmt.studies.diagnosing import diagnose, steps_of
from gmt.studies.plan import Plan
from tests.diagnosed import config_of, planted

ALL = sorted(path.stem for path in (config_dir() / "diagnostic").glob("*.yaml"))
SMALL = {"num_examples": 4, "batch_size": 2, "steps": 2, "draws": 1}  # where a diagnostic has such a setting


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planted(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("name", ALL)
def test_every_diagnostic_measures_keeps_and_draws(name: str, plan: Plan) -> None:
    config = config_of(name)
    config |= {key: value for key, value in SMALL.items() if key in config}
    steps = steps_of(plan, [config]).steps
    progress: list[tuple[int, int]] = []
    ended = list(diagnose(steps, lambda step, done, total: progress.append((done, total))))
    assert [each.fault for each in ended] == [None] * len(steps)
    assert progress
    assert all(done <= total for done, total in progress)
    parameters = {name for name, _ in plan.runs[0].run.model.base().named_parameters()}
    diagnostic = steps[0].diagnosing.diagnostic
    assert diagnostic.name == name
    for each in ended:
        assert each.diagnosis is not None
        assert each.diagnosis.rows
        for row in each.diagnosis.rows:
            assert math.isfinite(row["value"])
            if row["matrix"] is not None:
                layer = "" if row["layer"] is None else str(row["layer"])
                assert row["matrix"].replace("*", layer, 1) in parameters
    is_of_pairs = isinstance(diagnostic, ComparesRuns)
    assert len(steps) == len(plan.runs) + (4 if is_of_pairs else 0)  # two of seeds, two of arms
    again = list(diagnose(steps_of(plan, [config]).steps, lambda *_: pytest.fail("measured")))
    assert not any(each.is_new for each in again)
    assert {planned.record.state() for planned in plan.runs} == {"done"}

    results = Results(plan)
    rows = results.diagnoses[name].rows
    assert len(rows) == sum(len(diagnosed.diagnosis.rows) for diagnosed in ended if diagnosed.diagnosis is not None)
    assert {"arm", "task", "seed", "other_arm", "layer", "matrix", "name", "value"} <= set(rows.columns)
    assert results.diagnoses[name].differing is None
    figure = diagnostic_figures(results)[f"diagnostic_{name}"]
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    assert len(drawn) == len(set(diagnostic.shown.panels) & set(rows["name"]))
    figure.canvas.draw()
