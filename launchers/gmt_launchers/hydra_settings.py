"""The settings of `hydra/launcher=ray_tune`. Imports no Tune, so that Ray can start before Tune is imported."""

from collections.abc import Sequence
from dataclasses import dataclass

from gmt import settings
from gmt_launchers.room import Amounts


@dataclass(frozen=True, kw_only=True)
class RayTuneSettings:
    """The settings of the launcher.

    Args:
        address: the address of a running cluster (`auto` or HOST:PORT); None starts Ray on this machine.
        num_cpus: the number of cores that Ray may use on this machine; None for all that this process may use.
        cpus_per_job, gpus_per_job: the resources of a job of Hydra's own sweepers; the runs of a study have settings
            of their own. gpus_per_job=None means 1 if some node has a GPU, else 0.
        max_failures: how often a job of Hydra's own sweepers starts again after its worker died.
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
        """Return the number of GPUs that a job reserves; it sees no others."""
        if self.gpus_per_job is not None:
            return self.gpus_per_job
        return float(any(node.get("GPU", 0) >= 1 for node in nodes))
