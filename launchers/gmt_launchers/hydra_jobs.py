"""Runs the jobs of any Hydra app on Ray Tune, and returns a JobReturn for each list of overrides.

The driver composes all configs before it starts a job, so that later edits of files change nothing.
"""

import functools
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import ray
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from gmt.runs.gpus import hide_gpus
from gmt_launchers.cluster import connected
from gmt_launchers.hydra_settings import RayTuneSettings
from gmt_launchers.job_queue import Job, Ready
from gmt_launchers.ray_tune import run_jobs
from gmt_launchers.room import all_nodes, check_fits


def launch(
    settings: RayTuneSettings,
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
) -> list[JobReturn]:
    """Do every job and wait for all of them; a job that dies does not affect the others.

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
                work=functools.partial(_do_job, common, composed, gpus),
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


def _do_job(
    common: ray.ObjectRef, config: DictConfig, gpus: float, report_score: Callable[[int, float], bool]
) -> bytes:
    """Do one job in the worker, and return its JobReturn, which holds the job's result or exception, as bytes."""
    if not gpus:
        hide_gpus()
    context, task_function, singletons = pickle.loads(ray.get(common))
    folder = os.getcwd()
    setup_globals()
    Singleton.set_state(singletons)
    HydraConfig.instance().set_config(config)
    try:
        job_return = run_job(
            hydra_context=context,
            task_function=task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    finally:
        os.chdir(folder)
    return bytes(cloudpickle.dumps(job_return))


class _HydraJobs:
    """The owner of Hydra's jobs, which collects their JobReturns."""

    def __init__(self, configs: Sequence[DictConfig], max_failures: int):
        self.returns = [_failed_return(config, i, "it did not run to its end") for i, config in enumerate(configs)]
        self._deaths = [0] * len(configs)
        self._max_failures = max_failures

    def ready(self, index: int) -> Ready:
        """Return GO, since every job is to be done."""
        return Ready.GO

    def handle_result(self, index: int, result: bytes) -> float | None:
        """Store the JobReturn of a job."""
        self.returns[index] = pickle.loads(result)
        return None

    def handle_death(self, index: int, error: Exception) -> float | None:
        """Store the error, and start the job again unless its workers have died too often."""
        self.returns[index].return_value = error
        self._deaths[index] += 1
        return 0.0 if self._deaths[index] <= self._max_failures else None

    def note_early_stop(self, index: int) -> None:
        """Do nothing: no scheduler stops these jobs."""

    def is_stopped(self) -> bool:
        """Return False: nothing stops these jobs early."""
        return False

    def is_working(self) -> bool:
        """Return False: these jobs record nothing."""
        return False


def _failed_return(config: Any, index: int, why: str) -> JobReturn:
    job_return = JobReturn(cfg=config, status=JobStatus.FAILED)
    job_return.return_value = RuntimeError(f"job {index}: {why}")
    return job_return
