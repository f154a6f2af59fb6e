"""`hydra/sweeper=study`: a multirun is a study's plan, or a grid of the listed values where there is no study."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Plans every run before it starts any, leaves out what is done, and reports as runs end."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Does every run that is not done."""
        from gmt.commands.means import conclude
        from gmt.studies.multirun import by_overrides, multirun

        assert self.launcher is not None
        launch_runs = getattr(self.launcher, "launch_runs", None)
        if launch_runs is None:
            launch = self.launcher.launch
            launch_runs = by_overrides(lambda jobs: launch(jobs, initial_job_idx=0))
        return multirun(self.config, arguments, launch_runs, conclude)
