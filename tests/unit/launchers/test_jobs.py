"""What a job of Hydra's own sweepers reserves."""

from typing import Any

import pytest
from gmt_launchers.hydra_settings import RayTuneSettings

from gmt.errors import UserError


def made(**values: Any) -> RayTuneSettings:
    defaults = {"address": None, "num_cpus": None, "cpus_per_job": 1, "gpus_per_job": None, "max_failures": 2}
    return RayTuneSettings(**defaults | values)


@pytest.mark.parametrize(
    ("asked", "nodes", "expected"),
    [
        (None, [{"CPU": 8}], 0),
        (None, [{"CPU": 8}, {"CPU": 8, "GPU": 4}], 1),
        (None, [{"CPU": 8, "GPU": 0}], 0),
        (0, [{"CPU": 8, "GPU": 4}], 0),
        (0.25, [{"CPU": 8, "GPU": 4}], 0.25),
    ],
)
def test_a_job_takes_a_gpu_where_there_are_any(asked: float | None, nodes: list[Any], expected: float) -> None:
    assert made(gpus_per_job=asked).gpus_among(nodes) == expected


def test_what_a_job_takes_is_a_number() -> None:
    for name in ("cpus_per_job", "gpus_per_job"):
        with pytest.raises(UserError, match=rf"hydra\.launcher\.{name} must be at least 0, got -1"):
            made(**{name: -1})
    with pytest.raises(UserError, match=r"hydra\.launcher\.cpus_per_job must be .*, got None"):
        made(cpus_per_job=None)
