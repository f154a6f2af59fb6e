"""The protocol of a cluster that sweeps are submitted to: Ray Jobs, Slurm, KubeRay (gmt_launchers/submission).

`gmt submit` finds the class through the yaml's `_target_`, and uses nothing of it beyond this protocol.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gmt.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A sweep to be executed on a cluster.

    Args:
        name: the same for the same set of runs; at most 40 characters of a-z, 0-9 and `-`.
        overrides: the overrides for `gmt sweep`, without those of the cluster.
        config_dir: the user's config folder, or None.
        record_root: record.root as the config has it.
        gpus_needed: the most GPUs that a worker requires; `resources.gpus=auto` requires none, unless
            resources.device is cuda.
        gpus_used: the most GPUs that a worker takes on a machine with GPUs.
    """

    name: str
    overrides: Sequence[str]
    config_dir: Path | None
    record_root: str
    gpus_needed: float
    gpus_used: float


def check_gpus(job: SweepJob, setting: str, num_gpus: int) -> None:
    """Refuse a cluster whose GPUs no run would use, or that lacks GPUs that a run needs.

    Args:
        job: the sweep.
        setting: the cluster's setting for the number of GPUs of a node.
        num_gpus: the setting's value.

    Raises:
        UserError: the GPUs of the cluster do not fit the runs.
    """
    if num_gpus and not job.gpus_used:
        raise UserError(f"{setting} must be 0 for runs that compute on the CPU (resources.gpus=0), got {num_gpus}")
    if not num_gpus and job.gpus_needed:
        raise UserError(f"{setting} must be at least 1 for runs with resources.gpus={job.gpus_needed:g}, got 0")


@dataclass(frozen=True, kw_only=True)
class JobState:
    """The state of a job, as its cluster reports it.

    Args:
        id: the id that `gmt logs` and `gmt stop` take.
        name: the name of its sweep.
        state: the cluster's word for its state.
        active: whether it waits or runs.
        note: the cluster's remark on it; may be empty.
    """

    id: str
    name: str
    state: str
    active: bool
    note: str


class Cluster(Protocol):
    """A cluster that executes sweeps; its settings are the fields of a frozen dataclass that checks them."""

    def preview(self, job: SweepJob) -> str:
        """Return the text that `submit` would send, without secrets; contacts nobody and starts nothing.

        Raises:
            UserError: the cluster can't take this job.
        """
        ...

    def submit(self, job: SweepJob) -> str:
        """Submit the sweep, and return the job's id without waiting for the job.

        Raises:
            UserError: the cluster refuses, does not answer, or is executing the same sweep; nothing was started.
        """
        ...

    def jobs(self) -> Sequence[JobState]:
        """Return the jobs of this project that the cluster knows.

        Raises:
            UserError: the cluster does not answer.
        """
        ...

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yield the output of a job in pieces; with `follow` until the job ends, else the output so far.

        Raises:
            UserError: there is no such job, or the cluster does not answer.
        """
        ...

    def stop(self, job_id: str) -> None:
        """End a job; its runs are resumed when the study is submitted again.

        Raises:
            UserError: no such job waits or runs, or the cluster does not answer.
        """
        ...
