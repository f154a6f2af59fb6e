"""Jobs of any Hydra app on Ray Tune, as Hydra's Launcher wants them: a JobReturn for each list of overrides.

The configs are composed in the driver before anything starts, so that a file edited meanwhile changes nothing.
"""

import functools
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import ray
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from gmt import settings
from gmt.runs.gpus import hide_gpus
from gmt_launchers.cluster import connected
from gmt_launchers.job_queue import Job, Ready
from gmt_launchers.ray_tune import run_jobs
from gmt_launchers.room import Amounts, all_nodes, check_fits


@dataclass(frozen=True, kw_only=True)
class RayTuneSettings:
    """What the launcher may use.

    Args:
        address: a running cluster (`auto` or HOST:PORT); None starts Ray on this machine.
        num_cpus: cores that Ray may use on this machine; None for all there are.
        cpus_per_job, gpus_per_job: what is reserved for a job of Hydra's own sweepers; a run of a study has resources
            of its own. GPUs: None for 1 where a node has any, else 0.
        max_failures: how often a job whose worker dies is begun again; a run of a study has retries of its own.
    """

    address: str | None
    num_cpus: int | None
    cpus_per_job: float
    gpus_per_job: float | None
    max_failures: int

    def __post_init__(self) -> None:
        if self.address is not None:
            settings.text("hydra.launcher.address", self.address)
        if self.num_cpus is not None:
            settings.integer("hydra.launcher.num_cpus", self.num_cpus, low=1)
        settings.number("hydra.launcher.cpus_per_job", self.cpus_per_job, "must be at least 0", low=0)
        if self.gpus_per_job is not None:
            settings.number("hydra.launcher.gpus_per_job", self.gpus_per_job, "must be at least 0", low=0)
        settings.integer("hydra.launcher.max_failures", self.max_failures, low=0)

    def gpus_among(self, nodes: Sequence[Amounts]) -> float:
        """Return how many GPUs a job reserves: a job sees no others."""
        if self.gpus_per_job is not None:
            return self.gpus_per_job
        return float(any(node.get("GPU", 0) >= 1 for node in nodes))


def launch(
    settings: RayTuneSettings,
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
) -> list[JobReturn]:
    """Does every job and waits for all of them; one that dies costs the others nothing.

    Raises:
        UserError: there is no such cluster, or a job fits on none of its nodes; nothing was started.
    """
    setup_globals()
    configs = [_compose(context, config, list(o), initial_job_idx + i) for i, o in enumerate(job_overrides)]
    with connected(settings.address, settings.num_cpus) as head:
        gpus = settings.gpus_among(all_nodes())
        check_fits([({"CPU": settings.cpus_per_job, "GPU": gpus}, 1)])
        common = ray.put(cloudpickle.dumps((context, task_function, Singleton.get_state())))
        jobs = [
            Job(
                work=functools.partial(_work, common, composed, gpus),
                cpus=settings.cpus_per_job,
                gpus=gpus,
                memory_bytes=None,
            )
            for composed in configs
        ]
        owner = _HydraJobs(configs, settings.max_failures)
        run_jobs(jobs, owner, head)
    return owner.returns


def _compose(context: HydraContext, config: DictConfig, overrides: list[str], number: int) -> DictConfig:
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = f"job_{number}"
        composed.hydra.job.num = number
    return composed


def _work(common: ray.ObjectRef, config: DictConfig, gpus: float, go_on: Callable[[int, float], bool]) -> bytes:
    """Runs in the worker: one job, whose return or exception is its JobReturn."""
    if not gpus:
        hide_gpus()
    context, task_function, singletons = pickle.loads(ray.get(common))
    folder = os.getcwd()
    setup_globals()
    Singleton.set_state(singletons)
    HydraConfig.instance().set_config(config)
    try:
        done = run_job(
            hydra_context=context,
            task_function=task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    finally:
        os.chdir(folder)
    return bytes(cloudpickle.dumps(done))


class _HydraJobs:
    """Collects the JobReturns; the owner of the jobs."""

    def __init__(self, configs: Sequence[DictConfig], max_failures: int):
        self.returns = [_lost(config, i, "it did not run to its end") for i, config in enumerate(configs)]
        self._deaths = [0] * len(configs)
        self._max_failures = max_failures

    def ready(self, index: int) -> Ready:
        """Every job is done."""
        return Ready.GO

    def ended(self, index: int, result: bytes) -> float | None:
        """Keeps a job's return."""
        self.returns[index] = pickle.loads(result)
        return None

    def died(self, index: int, error: Exception) -> float | None:
        """Begins a job again whose worker died, and keeps the error of one that died too often."""
        self.returns[index].return_value = error
        self._deaths[index] += 1
        return 0.0 if self._deaths[index] <= self._max_failures else None

    def given_up(self, index: int) -> None:
        """There is no scheduler that would."""

    def stopped(self) -> bool:
        """There is nobody who would ask for it."""
        return False


def _lost(config: Any, index: int, why: str) -> JobReturn:
    lost = JobReturn(cfg=config, status=JobStatus.FAILED)
    lost.return_value = RuntimeError(f"job {index}: {why}")
    return lost
