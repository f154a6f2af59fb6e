"""`hydra/sweeper=study`: a multirun does the plan of a study, or without a study a grid of the listed values."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Plans all runs before it starts any, skips those that are done, and reports as runs end."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher; Hydra calls this before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Do every run that is not done."""
        from gmt.commands.means import conclude
        from gmt.studies.multirun import by_overrides, multirun

        assert self.launcher is not None
        launch_runs = getattr(self.launcher, "launch_runs", None)
        if launch_runs is None:
            launch = self.launcher.launch
            launch_runs = by_overrides(lambda jobs: launch(jobs, initial_job_idx=0))
        return multirun(self.config, arguments, launch_runs, conclude)
