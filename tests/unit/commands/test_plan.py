"""`gmt plan` takes what `gmt sweep` takes."""

from pathlib import Path

from gmt.studies.opened import planned


def test_how_a_sweep_is_brought_to_machines_changes_no_plan(tmp_path: Path) -> None:
    what = ["study=quickstart", f"record.root={tmp_path}", "seed=1,2"]
    plain, _ = planned(what, None)
    placed, _ = planned([*what, "hydra/launcher=basic", "hydra.launcher.address=localhost:6379"], None)
    assert [run.run.id for run in placed.runs] == [run.run.id for run in plain.runs]
