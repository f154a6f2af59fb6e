"""A method that can't work with its model is refused before any run of a sweep starts."""

from pathlib import Path
from typing import Any

import pytest

from gmt.errors import RunFailed, UserError
from gmt.runs import method_check
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
        (
            {"method": "lift", "method.signal.rank": 4096},
            r"^method=lift: signal: .*: rank must be at most 128 for .* 4096$",
        ),
        ({"method": "gmt", "method.grain": "head"}, r"^method=gmt: grain=head: .*embed_tokens.* has no heads, so that"),
        (
            {"method": "green", "method.budget": 0.01},
            r"^method\.budget must be at least 0\.\d+ for this model, .* 0\.01$",
        ),
        *(
            ({"method.num_examples": 9000, **arm}, r"^method\.num_examples must be at most \d+, the rows .*, got 9000$")
            for arm in ({"method": "eva"}, {"method": "green"}, {"method": "s2ft", "method.score": "gradient"})
        ),
    ],
)
def test_a_method_that_cannot_work_with_its_model_starts_no_run(
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
    tried: list[Any] = []
    monkeypatch.setattr(method_check, "_faults", {})
    monkeypatch.setattr(method_check, "try_method", lambda method, *of, **more: tried.append(method))
    arms = {
        "sft": {"method": "sft"},
        "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]},  # which fit every model
        "lora": {"method": "lora", "method.rank": [2, 4]},
        "hft": {"method": "hft"},
    }
    plan = plan_of(tmp_path, arms, SEEDS)
    assert len(sweep(plan)) == len(plan.runs)
    assert [(method.name, getattr(method, "rank", None)) for method in tried] == [
        ("lora", 2),
        ("lora", 4),
        ("hft", None),
    ]
