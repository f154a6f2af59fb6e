"""A sweep's plan is frozen at its start: a job takes its config from there, and from nowhere else."""

from pathlib import Path

import pytest

from gmt.commands.run import _run_planned
from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.models.pretrained import PretrainedModel as Nano
from gmt.studies.frozen import STOP, freeze, job_of, new_sweep, thaw
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan, PlannedRun


def plan(root: Path) -> Plan:
    study = StudySettings(name="s", question="q", shared={"seed": [1, 2]}, arms={"sft": {"method": "sft"}})
    with hydra_on(None):
        return make_plan(Composer(), study, {"record.root": [str(root)]})


def reference(folder: Path, planned: PlannedRun) -> str:
    return job_of(folder, planned).partition("=")[2].strip("'")


def test_a_run_comes_back_as_it_was_planned(tmp_path: Path) -> None:
    made = plan(tmp_path)
    folder = new_sweep(made)
    freeze(made.runs, folder)
    for planned in made.runs:
        run_id, config, stop = thaw(reference(folder, planned))
        assert run_id == planned.run.id
        assert config == planned.run.config
        assert stop == folder / STOP


def test_what_was_not_planned_is_refused(tmp_path: Path) -> None:
    made = plan(tmp_path)
    folder = new_sweep(made)
    freeze(made.runs[:1], folder)
    for wrong in (reference(folder, made.runs[1]), f"{tmp_path}/nowhere#1#2", "x", "", "#", f"{folder}#"):
        with pytest.raises(UserError, match="planned_run must name a run"):
            thaw(wrong)


CHANGES = {
    "what the id covers": ('"learning_rate": 0.', '"learning_rate": 1.'),
    "what the id does not cover": ('"checkpoint_every": 50', '"checkpoint_every": 51'),
    "where it is recorded": ('"root": "', '"root": "/elsewhere'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_that_was_changed_is_refused(tmp_path: Path, change: str) -> None:
    made = plan(tmp_path)
    folder = new_sweep(made)
    freeze(made.runs, folder)
    file = folder / "plan.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    whole = file.read_text()
    assert CHANGES[change][0] in whole
    file.write_text(whole.replace(*CHANGES[change]))
    for planned in made.runs:
        with pytest.raises(UserError, match=rf"run {planned.run.id} in .*plan\.jsonl was changed"):
            thaw(reference(folder, planned))


def test_a_run_whose_id_is_another_by_now_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path)
    folder = new_sweep(made)
    freeze(made.runs, folder)
    monkeypatch.setattr(Nano, "fingerprint", lambda self: "another")  # its weights were changed meanwhile
    with pytest.raises(
        UserError, match=rf"^run {made.runs[0].run.id} of a sweep's plan has the id \w+ here: .*sweep again"
    ):
        _run_planned(reference(folder, made.runs[0]))
    assert not made.runs[0].record.folder.exists()
