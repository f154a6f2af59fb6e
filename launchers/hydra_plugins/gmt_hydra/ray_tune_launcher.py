"""`hydra/launcher=ray_tune`: passes Hydra's jobs, or the runs of a plan, to gmt_launchers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from gmt_launchers.starting import StartingRuns

    from gmt.studies.plan import PlannedRun
    from gmt.studies.sweep import CheckInWorker


@dataclass
class RayTuneConf:
    """The launcher's settings, for any Hydra app; see gmt_launchers.hydra_settings.RayTuneSettings."""

    _target_: str = "hydra_plugins.gmt_hydra.ray_tune_launcher.RayTuneLauncher"
    address: str | None = None  # of a running cluster: auto, HOST:PORT; null: Ray on this machine
    num_cpus: int | None = None  # cores that Ray may use on this machine; null: all that this process may use
    cpus_per_job: float = 1  # of a job of Hydra's own sweepers; the runs of a study have resources.*
    gpus_per_job: float | None = None  # of such a job; null: 1 if some node has a GPU, else 0
    max_failures: int = 2


ConfigStore.instance().store(group="hydra/launcher", name="ray_tune", node=RayTuneConf, provider="gmt-lab")


class RayTuneLauncher(Launcher):
    """Runs the jobs of a multirun as Ray Tune trials."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the arguments; Hydra calls this before `launch`."""
        self._context, self._task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do one job for each list of overrides."""
        from gmt_launchers.hydra_jobs import launch
        from gmt_launchers.hydra_settings import RayTuneSettings

        settings = RayTuneSettings(**self._values)
        return launch(settings, self._context, self._task_function, self.config, job_overrides, initial_job_idx)

    @property
    def launch_runs(self) -> "_RunsOnRay":
        """The RunLauncher that does the runs of a plan on Ray."""
        return _RunsOnRay(self._values)


class _RunsOnRay:
    """Does the runs of a plan from their frozen configs; see gmt.studies.sweep.RunLauncher and StartsEarly."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values
        self._starting: StartingRuns | None = None

    @contextmanager
    def starting(self, todo: "Sequence[PlannedRun]", folder: Path) -> "Iterator[CheckInWorker]":
        """Start Ray and workers on this machine, and end them after the block; on a joined cluster start nothing."""
        from gmt_launchers.cluster import EarlyWorkers, connected
        from gmt_launchers.hydra_settings import RayTuneSettings
        from gmt_launchers.starting import StartingRuns

        from gmt.terminal import say
        from gmt.usable import usable_cores

        settings = RayTuneSettings(**self._values)
        if settings.address is not None:
            yield lambda prepare_driver: prepare_driver()
            return
        say("starting Ray, whose first worker does these checks")
        num_cpus = settings.num_cpus or usable_cores()
        num_waiting = max(num_cpus - 1, 1)  # one core is the driver's
        shapes = {(planned.run.resources.workers, planned.run.resources.cpus) for planned in todo}
        early = None
        if len(shapes) == 1 and (shape := shapes.pop())[0] == 1:  # all alike, since a worker's imports read its cores
            places = max(int(num_cpus // max(shape[1], 1)), 1)
            early = EarlyWorkers(number=min(num_waiting, places, len(todo)), num_threads=max(int(shape[1]), 1))
        starting = StartingRuns(partial(connected, None, settings.num_cpus, early=early), num_waiting)
        try:
            starting.wait_for_ray()
            self._starting = starting
            yield partial(self._check, todo, folder)
        finally:
            self._starting = None
            starting.end()

    def _check(
        self, todo: "Sequence[PlannedRun]", folder: Path, prepare_driver: Callable[[], None]
    ) -> Sequence[str] | None:
        """Start the first workers, and return the faults of all runs that one of them finds; None if none can check."""
        from gmt_launchers.planned_runs import start_runs  # imports Tune; earlier Ray's processes needed the cores

        from gmt.studies.frozen import STOP

        assert self._starting is not None
        start_runs([planned.run for planned in todo], folder / STOP, self._starting)
        prepare_driver()
        return self._starting.faults(len(todo))

    def __call__(self, todo: "Sequence[PlannedRun]", folder: Path) -> None:
        """Do the runs of a plan."""
        if self._starting is not None:
            self._starting.finish()
            return
        from gmt_launchers.hydra_settings import RayTuneSettings
        from gmt_launchers.planned_runs import launch_runs

        from gmt.studies.frozen import STOP

        settings = RayTuneSettings(**self._values)
        runs = [planned.run for planned in todo]
        launch_runs(runs, folder / STOP, address=settings.address, num_cpus=settings.num_cpus)
