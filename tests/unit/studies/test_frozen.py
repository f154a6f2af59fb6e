"""A sweep's plan is frozen at its start: a job takes its config from there, and from nowhere else."""

from pathlib import Path

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.studies.frozen import STOP, freeze, job_of, thaw
from gmt.studies.grid import StudySettings
from gmt.studies.plan import Plan, make_plan


def plan(root: Path) -> Plan:
    study = StudySettings(name="s", question="q", shared={"seed": [1, 2]}, arms={"sft": {"method": "sft"}})
    with hydra_on(None):
        return make_plan(Composer(), study, {"record.root": [str(root)]})


def test_a_run_comes_back_as_it_was_planned(tmp_path: Path) -> None:
    made = plan(tmp_path)
    folder = freeze(made, made.runs)
    for planned in made.runs:
        reference = job_of(folder, planned.run.id).partition("=")[2].strip("'")
        config, stop = thaw(reference)
        assert config == planned.run.config
        assert stop == folder / STOP


def test_what_was_not_planned_is_refused(tmp_path: Path) -> None:
    made = plan(tmp_path)
    folder = freeze(made, made.runs[:1])
    for reference in (f"{folder}#{made.runs[1].run.id}", f"{tmp_path}/nowhere#1", "x"):
        with pytest.raises(UserError, match="planned_run must name a run"):
            thaw(reference)
