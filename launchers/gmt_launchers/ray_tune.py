"""Hydra jobs as Ray Tune trials on this machine, in actors that are reused, so that imports are paid once.

A trial is one job: the config is composed in the driver before anything starts, so that a file edited meanwhile
changes nothing. What a job returns or raises travels back as Hydra's JobReturn.
"""

import logging
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import ray
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial

from gmt import settings
from gmt.errors import UserError

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results travel in JobReturns; Tune need not write logs of them
    "RAY_AIR_NEW_OUTPUT": "0",  # no table of its own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a job's relative paths mean what they mean in the driver
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C then ends the sweep as it ends any other program
}


@dataclass(frozen=True, kw_only=True)
class RayTuneSettings:
    """What the launcher may use.

    Args:
        num_cpus: cores that Ray may use; None for all there are.
        cpus_per_run: cores of one job.
        gpus_per_run: GPUs of one job; a fraction packs several jobs on one.
        max_failures: how often a job whose worker dies is started again.
    """

    num_cpus: int | None
    cpus_per_run: int
    gpus_per_run: float
    max_failures: int

    def __post_init__(self) -> None:
        settings.integer("hydra.launcher.cpus_per_run", self.cpus_per_run, low=1)
        settings.number("hydra.launcher.gpus_per_run", self.gpus_per_run, "must be at least 0", low=0)
        settings.integer("hydra.launcher.max_failures", self.max_failures, low=0)
        cores = self.num_cpus if self.num_cpus is not None else os.cpu_count() or 1
        settings.integer("hydra.launcher.num_cpus", cores, low=1)
        if self.cpus_per_run > cores:
            raise UserError(
                f"hydra.launcher.cpus_per_run must be at most {cores}, the cores that Ray has, got {self.cpus_per_run}"
            )


def launch(
    settings: RayTuneSettings,
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
) -> list[JobReturn]:
    """Runs every job and waits for all of them; a job that dies costs the others nothing.

    Raises:
        UserError: a job asks for GPUs that this machine doesn't have.
    """
    configs = [_compose(context, config, list(o), initial_job_idx + i) for i, o in enumerate(job_overrides)]
    os.environ |= _ENVIRONMENT
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what went wrong in a job travels in its JobReturn
    # An explicit "local": without it Ray silently joins a cluster that somebody left behind.
    try:
        ray.init(
            address="local",
            num_cpus=settings.num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"hydra/launcher=ray_tune can't start Ray on this machine: {reason}") from error
    try:
        gpus = float(ray.cluster_resources().get("GPU", 0))
        if settings.gpus_per_run > gpus:
            raise UserError(
                f"hydra.launcher.gpus_per_run must be at most {gpus:g}, the GPUs that Ray finds here, "
                f"got {settings.gpus_per_run:g}"
            )
        collected = _Collector()
        with tempfile.TemporaryDirectory(prefix="gmt-tune-") as storage:
            _tuner(settings, context, task_function, configs, storage, collected).fit()
        return [collected.job_return(index, composed) for index, composed in enumerate(configs)]
    finally:
        ray.shutdown()


def _compose(context: HydraContext, config: DictConfig, overrides: list[str], number: int) -> DictConfig:
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = f"job_{number}"
        composed.hydra.job.num = number
    return composed


def _tuner(
    settings: RayTuneSettings,
    context: HydraContext,
    task_function: TaskFunction,
    configs: Sequence[DictConfig],
    storage: str,
    collector: Callback,
) -> Tuner:
    jobs = ray.put(cloudpickle.dumps((os.getcwd(), context, task_function, configs, Singleton.get_state())))
    trainable = tune.with_resources(
        tune.with_parameters(_trial, jobs=jobs), {"cpu": settings.cpus_per_run, "gpu": settings.gpus_per_run}
    )
    return Tuner(
        trainable,
        param_space={"index": tune.grid_search(list(range(len(configs))))},
        tune_config=TuneConfig(reuse_actors=True),
        run_config=RunConfig(
            name="sweep",
            storage_path=storage,
            verbose=0,
            callbacks=[collector],
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )


def _trial(params: Mapping[str, Any], jobs: bytes) -> None:
    """Runs in the worker: one job, whose return or exception is reported as its JobReturn."""
    folder, context, task_function, configs, singletons = pickle.loads(jobs)
    os.chdir(folder)
    Singleton.set_state(singletons)
    config = configs[params["index"]]
    HydraConfig.instance().set_config(config)
    done = run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    tune.report({"job_return": cloudpickle.dumps(done).hex()})


class _Collector(Callback):  # type: ignore[misc]  # Ray ships no types
    """Keeps what each trial reports, in the driver's memory."""

    def __init__(self) -> None:
        self._returns: dict[int, JobReturn] = {}
        self._errors: dict[int, str] = {}

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **info: Any) -> None:
        """A job has ended."""
        if "job_return" in result:
            self._returns[trial.config["index"]] = pickle.loads(bytes.fromhex(result["job_return"]))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A worker died as often as is borne."""
        self._errors[trial.config["index"]] = str(trial.get_pickled_error() or trial.get_error())

    def job_return(self, index: int, config: DictConfig) -> JobReturn:
        """A job's JobReturn; one that never reported gives a failed one."""
        if index in self._returns:
            return self._returns[index]
        lost = JobReturn(cfg=config, status=JobStatus.FAILED)
        lost.return_value = RuntimeError(self._errors.get(index, f"job {index} did not run to its end"))
        return lost
