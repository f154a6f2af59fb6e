"""Tune treats a worker that Ray's memory monitor ended as dead, and continues."""

import pytest
import ray
from gmt_launchers.ray_internals import handle_errors_as_deaths
from ray.exceptions import OutOfMemoryError
from ray.tune.experiment import Trial


def test_a_worker_may_be_ended_before_its_first_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(_: object) -> None:
        raise OutOfMemoryError("the node is low on memory")

    handle_errors_as_deaths()
    handle_errors_as_deaths()  # a second sweep of the process
    trial = Trial("x", stub=True)
    trial._default_result_or_future = ray.ObjectRef.from_random()
    monkeypatch.setattr("ray.get", get)
    assert trial.last_result == {"trial_id": trial.trial_id}
