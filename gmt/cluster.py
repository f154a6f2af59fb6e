"""What a place that takes sweeps must do: Ray Jobs, Slurm, KubeRay are files in gmt_launchers/submission.

`gmt submit` finds the class through the yaml's `_target_` and knows no more of it than this.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gmt.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A sweep to be carried out elsewhere.

    Args:
        name: the same for the same set of runs, at most 40 characters of a-z, 0-9 and `-`.
        overrides: what the user gave to `gmt sweep`, that of the cluster left out.
        config_dir: the user's own config folder, or None.
        record_root: where the run records go, as the config says it.
        gpus_needed: the most that a worker takes of a GPU where there are none: what only a GPU can give.
        gpus_used: the most that a worker takes of a GPU where there are some.
    """

    name: str
    overrides: Sequence[str]
    config_dir: Path | None
    record_root: str
    gpus_needed: float
    gpus_used: float


def check_gpus(job: SweepJob, setting: str, there: int) -> None:
    """Refuse a place whose GPUs no run takes, or that lacks those that a run needs.

    Args:
        job: what is to be carried out.
        setting: of the cluster, that says how many GPUs a node has.
        there: its value.

    Raises:
        UserError: the GPUs of the cluster and those of the runs do not go together.
    """
    if there and not job.gpus_used:
        raise UserError(f"{setting} must be 0 for runs that compute on the CPU (resources.gpus=0), got {there}")
    if not there and job.gpus_needed:
        raise UserError(f"{setting} must be at least 1 for runs with resources.gpus={job.gpus_needed:g}, got 0")


@dataclass(frozen=True, kw_only=True)
class JobState:
    """A job as its cluster sees it.

    Args:
        id: what `gmt logs` and `gmt stop` take.
        name: the name of its sweep.
        state: the cluster's own word.
        active: whether it waits or runs.
        note: what the cluster says about it; may be empty.
    """

    id: str
    name: str
    state: str
    active: bool
    note: str


class Cluster(Protocol):
    """A place that takes sweeps; its settings are the fields of a frozen dataclass that checks them."""

    def preview(self, job: SweepJob) -> str:
        """What `submit` would hand over, without secrets; asks nobody and starts nothing.

        Raises:
            UserError: the cluster can't take this job.
        """
        ...

    def submit(self, job: SweepJob) -> str:
        """Hands the sweep over and returns the job's id at once.

        Raises:
            UserError: the cluster refuses, doesn't answer, or has the same sweep under way; nothing was started.
        """
        ...

    def jobs(self) -> Sequence[JobState]:
        """The jobs of this project that the cluster knows.

        Raises:
            UserError: the cluster doesn't answer.
        """
        ...

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """What a job has written so far, in pieces; with `follow`, what it writes until it ends.

        Raises:
            UserError: there is no such job, or the cluster doesn't answer.
        """
        ...

    def stop(self, job_id: str) -> None:
        """Ends a job; its runs go on where they were when the study is submitted again.

        Raises:
            UserError: there is no such job under way, or the cluster doesn't answer.
        """
        ...
