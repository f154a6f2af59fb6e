"""`hydra/launcher=ray_tune`: hands Hydra's jobs to gmt_launchers.ray_tune."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayTuneLauncher(Launcher):
    """Runs the jobs of a multirun as Ray Tune trials."""

    def __init__(self, num_cpus: int | None, cpus_per_run: int, gpus_per_run: float, max_failures: int) -> None:
        self._settings = {
            "num_cpus": num_cpus,
            "cpus_per_run": cpus_per_run,
            "gpus_per_run": gpus_per_run,
            "max_failures": max_failures,
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs one job for each list of overrides."""
        from gmt_launchers.ray_tune import RayTuneSettings, launch

        settings = RayTuneSettings(**self._settings)  # type: ignore[arg-type]
        return launch(settings, self._context, self._task_function, self._config, job_overrides, initial_job_idx)
