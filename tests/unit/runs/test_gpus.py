"""A run takes a GPU where there are any, and only then; each process sees what its run takes. There is no GPU here."""

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gmt.commands.plan import gpus_in_words
from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs import gpus
from gmt.runs.device import check_device, device_of
from gmt.runs.settings import ResourceSettings
from gmt.studies import plan as plan_module
from gmt.studies.estimate import estimate
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan, runs_at_once
from tests.finished import RESULT

NVML = """
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *number) { *number = 5; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { return index == 2 ? 4 : 0; }  /* no permission */
"""


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with four GPUs and a torch that is built for them, as far as a plan can see."""
    (tmp_path / "nvml.c").write_text(NVML)
    library = str(tmp_path / "libnvidia-ml.so.1")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    monkeypatch.setattr(gpus, "_NVML", library)
    monkeypatch.setattr(gpus, "_build_of_torch", lambda: "cuda")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(gpus, "_HIDDEN", {})
    gpus.gpus_here.cache_clear()
    yield
    gpus.gpus_here.cache_clear()


def resources(**values: Any) -> ResourceSettings:
    usual = {"device": "auto", "cpus": 1, "gpus": "auto", "workers": 1, "sharding": "none"}
    return ResourceSettings(**usual | {"memory_gb": None, "stall_limit_s": None} | values)


@pytest.mark.parametrize(
    ("device", "asked", "where_there_are_none", "where_there_are_some"),
    [
        ("auto", "auto", 0, 1),
        ("auto", 0, 0, 0),
        ("auto", 0.5, 0.5, 0.5),
        ("cpu", "auto", 0, 0),
        ("cpu", 0, 0, 0),
        ("cuda", "auto", 1, 1),
        ("cuda", 1, 1, 1),
    ],
)
def test_what_a_worker_takes(device: str, asked: Any, where_there_are_none: float, where_there_are_some: float) -> None:
    made = resources(device=device, gpus=asked)
    assert (made.num_gpus(0), made.num_gpus(4)) == (where_there_are_none, where_there_are_some)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gpus": 2}, "resources.gpus must be auto or lie in [0, 1]: a worker computes on one GPU, and"),
        ({"gpus": -1}, "resources.gpus must be auto or lie in [0, 1]"),
        ({"gpus": "all"}, "resources.gpus must be auto or lie in [0, 1]"),
        ({"gpus": None}, "resources.gpus must be auto or lie in [0, 1]"),
        ({"gpus": True}, "resources.gpus must be auto or lie in [0, 1]"),
        ({"gpus": 0, "device": "cuda"}, "resources.gpus must be auto or above 0 for resources.device=cuda, got 0"),
        ({"gpus": 1, "device": "cpu"}, "resources.gpus must be auto or 0 for resources.device=cpu, got 1"),
        ({"gpus": 0.5, "workers": 2}, "resources.gpus must be auto, 0 or 1 for resources.workers=2, got 0.5"),
    ],
)
def test_what_can_not_be_taken_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        resources(**values)
    (found,) = caught.value.sentences
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    ("shown", "number"),
    [(None, 4), ("", 0), ("-1", 0), ("NoDevFiles", 0), ("2", 1), ("2,3", 2), ("3,-1,2", 1), ("0,1,2,3,4,5", 4)],
)
@pytest.mark.usefixtures("four_gpus")
def test_gpus_are_counted_as_cuda_shows_them(monkeypatch: pytest.MonkeyPatch, shown: str | None, number: int) -> None:
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert gpus.gpus_here() == number


def test_amd_gpus_are_counted_as_rocm_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node, gpu_id in enumerate((0, 51234, 27182)):  # the first is the processor
        (tmp_path / str(node)).mkdir()
        (tmp_path / str(node) / "gpu_id").write_text(f"{gpu_id}\n")
    monkeypatch.setattr(gpus, "_AMD_NODES", tmp_path)
    monkeypatch.setattr(gpus, "_build_of_torch", lambda: "hip")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for shown, number in ((None, 2), ("1", 1), ("-1", 0)):
        monkeypatch.setenv("HIP_VISIBLE_DEVICES", "") if shown is None else monkeypatch.setenv(
            "HIP_VISIBLE_DEVICES", shown
        )
        if shown is None:
            monkeypatch.delenv("HIP_VISIBLE_DEVICES")
        gpus.gpus_here.cache_clear()
        assert gpus.gpus_here() == number
    gpus.gpus_here.cache_clear()


@pytest.mark.usefixtures("four_gpus")
def test_a_torch_that_is_built_for_the_cpu_has_no_use_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(gpus, "_num_nvidia", lambda: 4)
    expected = 4 if torch.version.cuda else 0
    assert gpus.gpus_here() == expected


@pytest.mark.usefixtures("four_gpus")
def test_the_device_is_what_the_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    takes = {"auto": "cuda", 0: "cpu", 0.5: "cuda", 1: "cuda"}
    assert {asked: device_of(resources(gpus=asked)) for asked in takes} == takes
    assert device_of(resources(device="cpu")) == "cpu"
    monkeypatch.setattr(
        torch.cuda, "device_count", lambda: 4
    )  # transformers would train on all, with 4 times the batch
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES must name one GPU for a run with one worker, but torch"):
        check_device(resources())
    check_device(resources(gpus=0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a driver that is too old
    with pytest.raises(UserError, match=r"resources\.gpus must be 0 here, got auto: torch finds no GPU"):
        device_of(resources())


@pytest.mark.usefixtures("four_gpus")
def test_a_process_is_shown_one_gpu_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus.show_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5f,GPU-7a")
    gpus.show_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-5f"
    gpus.hide_gpus()
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["HIP_VISIBLE_DEVICES"]) == ("-1", "-1")
    assert torch.cuda.device_count() == 0


@pytest.mark.usefixtures("four_gpus")
def test_a_run_that_takes_a_gpu_after_one_that_took_none_is_shown_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus.gpus_here() == 2
    gpus.hide_gpus()
    gpus.show_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_without_nvidias_library_the_devices_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path)
    monkeypatch.setattr(gpus, "_NVML", "no-such-library.so")
    assert gpus._num_nvidia() == 2


def plan(root: Path, *gpus_of_arms: object, **shared: object) -> Plan:
    arms = {f"arm{i}": {"method": "sft", "seed": i, "resources.gpus": g} for i, g in enumerate(gpus_of_arms)}
    study = StudySettings(name="s", question="q", shared=shared, arms=arms)
    with hydra_on(None):
        return make_plan(Composer(), study, {"record.root": [str(root)]})


@pytest.mark.usefixtures("four_gpus")
def test_a_plan_lists_the_resources_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "usable_cores", lambda: 64)
    for asked, words, at_once in (
        (["auto"], "a run takes 1 of 4 GPUs on this machine", 4),
        ([0.5], "a run takes 0.5 of 4 GPUs on this machine", 8),
        ([0], "the runs compute on the CPU (resources.gpus=0); idle GPUs on this machine: 4", 64),
        (["auto", 0.25], "a run takes 0.25 or 1 of 4 GPUs on this machine", 4),
    ):
        made = plan(tmp_path, *asked)
        assert gpus_in_words(made) == words
        assert runs_at_once(made) == at_once
    two = plan(tmp_path, "auto", **{"resources.workers": 2, "train.accumulation_steps": 2})
    assert gpus_in_words(two) == "a run takes 2 of 4 GPUs on this machine"
    assert runs_at_once(two) == 2


def test_an_estimate_counts_the_gpus_of_every_worker(tmp_path: Path) -> None:
    done, left = plan(tmp_path, "auto", "auto", **{"resources.workers": 2, "train.accumulation_steps": 2}).runs
    placed = done.run.with_gpus(8)
    assert placed.config["resources"]["gpus"] == 1
    assert placed.id == done.run.id
    done.record.create(placed.science, placed.config)
    done.record.write("result.json", dataclasses.replace(RESULT, seconds=3600.0).to_json())
    done.record.set_status("done")
    made = plan(tmp_path, "auto", "auto", **{"resources.workers": 2, "train.accumulation_steps": 2})
    assert estimate(made, made.states(), num_gpus=8).gpu_hours == 2
    assert estimate(made, made.states(), num_gpus=0).num_known == 0  # on the CPU it is another kind
    assert gpus_in_words(made) is None or gpus.gpus_here()
    assert left.run.config["resources"]["gpus"] == "auto"
