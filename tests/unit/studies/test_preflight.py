"""A method that can't work with its model is refused before any run of a sweep starts."""

from pathlib import Path
from typing import Any

import pytest

from gmt.errors import RunFailed, UserError
from gmt.runs import reshape_check
from gmt.studies.plan import Plan
from gmt.studies.progress import Lines
from gmt.studies.sweep import run_sweep
from gmt.tracking.settings import TrackingSettings
from tests.finished import plan_of

NOWHERE = TrackingSettings(uri=None, artifacts=None, experiment="made")
SEEDS = [1, 2, 3]


def sweep(plan: Plan) -> list[str]:
    """Returns the labels of the runs that a sweep starts; none of them is done."""
    started: list[str] = []
    with pytest.raises(RunFailed):
        run_sweep(
            plan,
            NOWHERE,
            lambda todo, folder: started.extend(planned.point.label for planned in todo),
            Lines(),
            say=lambda line: None,
            remedy="",
        )
    return started


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        (
            {"method": "prompt_tuning", "record.keep_weights": "merged"},
            r"^record\.keep_weights must be true or false for method prompt_tuning, which can't be merged",
        ),
        ({"method": "lora", "method.targets": "nowhere"}, r"^method\.targets=.*nowhere.* must fit the model"),
        (
            {"method": "lora", "method.rank": 4096},
            r"^method\.rank must be at most \d+, the smaller side of",
        ),
        *(
            ({"method.num_examples": 9000, **arm}, r"^method\.num_examples must be at most \d+, the rows .*, got 9000$")
            for arm in ({"method": "eva"}, {"method": "green"}, {"method": "s2ft", "method.score": "gradient"})
        ),
    ],
)
def test_a_method_that_cannot_reshape_its_model_starts_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: dict[str, Any], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}, "wrong": arm}, SEEDS)
    with pytest.raises(UserError, match=sentence) as refused:
        sweep(plan)
    assert len(refused.value.sentences) == 1
    assert not any(planned.record.exists() for planned in plan.runs)


def test_a_method_is_tried_once_for_each_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tried: list[object] = []
    monkeypatch.setattr(reshape_check, "check_method", lambda run, prepared, load: tried.append(run.method))
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}, "lora": {"method": "lora", "method.rank": [2, 4]}}, SEEDS)
    assert len(sweep(plan)) == len(plan.runs)
    assert [getattr(method, "rank", None) for method in tried] == [2, 4]
