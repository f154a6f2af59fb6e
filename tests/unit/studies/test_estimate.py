"""A plan's cost is estimated from similar runs, of this study or another; the estimate says if there are none."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from gmt.commands.plan import cost_in_words
from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.studies.estimate import estimate
from gmt.studies.grid import StudySettings
from gmt.studies.guard import SweepSettings, confirm
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan, PlannedRun
from tests.finished import RESULT


def plan(root: Path, **shared: object) -> Plan:
    arms = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}}
    study = StudySettings(name="s", question="q", shared={"seed": [1, 2], **shared}, arms=arms)
    with hydra_on(None):
        return make_plan(Composer(), study, {"record.root": [str(root)], "resources.gpus": ["0.5"]})


def finish(planned: PlannedRun, seconds: float, memory: int) -> None:
    training = dataclasses.replace(RESULT.training, peak_memory_bytes=memory)
    made = dataclasses.replace(RESULT, seconds=seconds, training=training)
    planned.record.create(planned.run.science, planned.run.config)
    planned.record.write("result.json", made.to_json())
    planned.record.set_status("done")


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    made = plan(tmp_path)
    cost = estimate(made, made.states(), num_gpus=0)
    assert (cost.num_left, cost.num_known, cost.run_seconds) == (6, 0, 0)
    assert "no similar run has finished here yet" in cost_in_words(cost, 2)


def test_another_ratio_and_seed_are_the_same_kind_and_another_method_is_none(tmp_path: Path) -> None:
    made = plan(tmp_path)
    gmt = [planned for planned in made.runs if planned.point.arm == "gmt"]
    finish(gmt[0], 100.0, 3_000)
    finish(gmt[1], 300.0, 5_000)
    cost = estimate(made, made.states(), num_gpus=0)
    assert (cost.num_left, cost.num_known, cost.num_measured) == (4, 2, 2)
    assert cost.run_seconds == pytest.approx(400)
    assert cost.gpu_hours == pytest.approx(400 * 0.5 / 3600)
    assert cost.peak_memory_bytes == 5_000
    assert "; without 2 runs that have no similar finished run" in cost_in_words(cost, 1)


def test_runs_of_another_study_count_and_longer_ones_do_not(tmp_path: Path) -> None:
    for planned in plan(tmp_path, **{"seed": [7], "train.learning_rate": 1e-4}).runs:
        finish(planned, 60.0, 1)
    for planned in plan(tmp_path, **{"seed": [7], "train.num_epochs": 9}).runs:
        finish(planned, 600.0, 1)
    made = plan(tmp_path)
    cost = estimate(made, made.states(), num_gpus=0)
    assert (cost.num_known, cost.run_seconds) == (6, pytest.approx(360))


def test_an_expensive_sweep_starts_only_if_the_user_agrees(tmp_path: Path) -> None:
    made = plan(tmp_path)
    for planned in made.runs[::2]:
        finish(planned, 7200.0, 1)  # three are left, of two hours on half a GPU
    asked: list[str] = []

    def answer(text: str) -> Callable[[str], str]:
        return lambda question: asked.append(question) or text

    confirm(made, SweepSettings(confirm_above_gpu_hours=3.0), None, num_gpus=0)
    confirm(made, SweepSettings(confirm_above_gpu_hours=None), None, num_gpus=0)
    assert not asked
    confirm(made, SweepSettings(confirm_above_gpu_hours=2.9), answer("y"), num_gpus=0)
    assert "about 3.0 GPU-hours, as 3 similar runs show" in asked[0]
    for ask in (answer(""), answer("n"), None):
        with pytest.raises(UserError, match=r"raise sweep\.confirm_above_gpu_hours, which is 2\.9"):
            confirm(made, SweepSettings(confirm_above_gpu_hours=2.9), ask, num_gpus=0)
