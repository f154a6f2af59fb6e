"""A planner of tuned studies, for the tests of tuning."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan

GMT = {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}
ARMS: dict[str, dict[str, Any]] = {"sft": {"method": "sft"}, "gmt": GMT}
TUNING: dict[str, Any] = {
    "setting": "train.learning_rate",
    "low": 1e-4,
    "high": 1e-2,
    "runs": 3,
    "seeds": [11, 12],
    "overrides": {"task.data_seed": 20000},
}

_OF_THE_STUDY = ("primary", "looks", "axis")
Planner = Callable[..., Plan]


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    """One for all tests here: a kind of runs is composed once."""
    with hydra_on(None):
        yield Composer()


@pytest.fixture
def planned(composer: Composer, tmp_path: Path) -> Planner:
    """Plans a tuned study on some seeds; `given` are settings of the tuning, or of the study."""

    def plan(
        arms: Mapping[str, Mapping[str, Any]] = ARMS,
        on: Sequence[int] = (1, 2),
        typed: Mapping[str, list[str]] | None = None,
        **given: Any,
    ) -> Plan:
        more = {key: given.pop(key) for key in _OF_THE_STUDY if key in given}
        study = StudySettings(
            name="made", question="?", shared={"seed": list(on)}, arms=arms, tuning=TUNING | given, **more
        )
        return make_plan(composer, study, {"record.root": [str(tmp_path)], **(typed or {})})

    return plan
