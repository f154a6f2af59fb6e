"""A fault that would stop a run is found before any run of a sweep starts, in a worker or in the driver."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gmt.errors import RunFailed, UserError
from gmt.runs import method_check
from gmt.runs.build import Run
from gmt.studies import sweep as sweep_module
from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.preflight import faults_of_configs, faults_of_runs
from gmt.studies.progress import Lines
from gmt.studies.sweep import CheckInWorker, run_sweep
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


class EarlyLauncher:
    """A launcher whose worker has found given faults, or None if no worker could check the runs."""

    def __init__(self, found: list[str] | None):
        self.found, self.calls = found, list[str]()

    @contextmanager
    def starting(self, todo: Sequence[PlannedRun], folder: Path) -> Iterator[CheckInWorker]:
        def check(prepare_driver: Callable[[], None]) -> list[str] | None:
            prepare_driver()
            self.calls.append("check")
            return self.found

        yield check
        self.calls.append("end")

    def __call__(self, todo: Sequence[PlannedRun], folder: Path) -> None:
        self.calls.append("launch")


@pytest.mark.parametrize(
    ("found", "calls", "error"),
    [
        (["a fault", "another"], ["check"], UserError),
        ([], ["check", "launch"], RunFailed),  # since the launcher does no run
        (None, ["check", "the driver checks", "launch"], RunFailed),
    ],
)
def test_the_driver_checks_a_sweep_only_if_no_worker_could(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: list[str] | None,
    calls: list[str],
    error: type[Exception],
) -> None:
    monkeypatch.chdir(tmp_path)
    launcher = EarlyLauncher(found)

    def check(runs: Sequence[Run]) -> list[str]:
        launcher.calls.append("the driver checks")
        return []

    monkeypatch.setattr(sweep_module, "faults_of_runs", check)
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}}, SEEDS)
    with pytest.raises(error) as raised:
        run_sweep(plan, NOWHERE, launcher, Lines(), say=lambda line: None, remedy="")
    assert [call for call in launcher.calls if call != "end"] == calls
    if isinstance(raised.value, UserError):
        assert raised.value.sentences == ("a fault", "another")


def test_a_worker_finds_the_faults_of_all_runs_from_their_configs(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "long": {"method": "sft", "train.max_length": 2},
        "lora": {"method": "lora", "method.rank": 4096},
    }
    runs = [planned.run for planned in plan_of(tmp_path, {"sft": {"method": "sft"}} | wrong, SEEDS).runs]
    numbers: list[int] = []
    faults = faults_of_configs(pickle.loads(pickle.dumps([run.config for run in runs])), numbers.append)
    assert numbers == list(range(1, len(runs) + 1))
    assert faults == faults_of_runs(runs)
    assert [fault.split()[0] for fault in faults] == ["train.max_length", "method.rank"]
