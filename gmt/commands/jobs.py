"""`gmt jobs`, `gmt logs`, `gmt stop`: list, show and end submitted jobs."""

import sys
from collections.abc import Sequence

from gmt.cluster import Cluster
from gmt.commands.clusters import cluster_of, split_overrides
from gmt.errors import UserError
from gmt.terminal import printable_log, say, table


def jobs(overrides: Sequence[str], config_dir: str | None) -> None:
    """Print this project's jobs on the cluster."""
    submitted = _cluster(overrides, config_dir).jobs()
    if not submitted:
        say("no jobs")
        return
    say(table(["job", "sweep", "state", "note"], [[job.id, job.name, job.state, job.note[:80]] for job in submitted]))


def logs(job_id: str, overrides: Sequence[str], config_dir: str | None, *, follow: bool) -> None:
    """Print the output of a job."""
    for piece in _cluster(overrides, config_dir).logs(job_id, follow=follow):
        sys.stdout.write(printable_log(piece))
        sys.stdout.flush()


def stop(job_id: str, overrides: Sequence[str], config_dir: str | None) -> None:
    """End a job."""
    _cluster(overrides, config_dir).stop(job_id)
    say(f"stopped {job_id}; to resume its sweep, submit the same sweep again")


def _cluster(overrides: Sequence[str], config_dir: str | None) -> Cluster:
    cluster_overrides, others = split_overrides(overrides)
    if others:
        raise UserError(f"this command takes settings of the cluster only, got {', '.join(others)}")
    return cluster_of(cluster_overrides, config_dir)
