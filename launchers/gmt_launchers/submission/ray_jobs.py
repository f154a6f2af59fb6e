"""`cluster=ray`: submits a sweep to a running Ray cluster by Ray Jobs, with the code and the user's configs."""

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gmt import settings
from gmt.cluster import JobState, SweepJob
from gmt.credentials import names_a_secret
from gmt.errors import UserError
from gmt_launchers.submission import versions
from gmt_launchers.submission.attempts import next_id, sweep_of
from gmt_launchers.submission.entrypoint import sweep_command
from gmt_launchers.submission.ray_connection import check_address, connect, errors_of, fetched
from gmt_launchers.submission.shipping import USER_CONFIG, ship

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_CODE = ("shipped", "installed")
_POLL_S = 0.5
_CHECK_S = 120.0  # installing the requirements of cluster.pip takes time
_STATES_AT_WORK = ("PENDING", "RUNNING")


@dataclass(frozen=True, kw_only=True)
class RayJobs:
    """A running Ray cluster.

    Args:
        address: the address of the cluster's dashboard, http(s)://HOST:PORT.
        python: the interpreter on the cluster.
        code: `shipped` sends this project's packages with the job; `installed` uses those of the cluster, which must
            have the same version.
        pip: requirements that Ray installs for the job; empty if the cluster's environment has them.
        env_vars: environment variables of the job, without secrets.
        stop_timeout_s: how long a stopped sweep may take to write its checkpoints, in seconds.
    """

    address: str
    python: str
    code: str
    pip: Sequence[str]
    env_vars: Mapping[str, str]
    stop_timeout_s: int

    def __post_init__(self) -> None:
        check_address("cluster.address", self.address)
        settings.text("cluster.python", self.python)
        settings.one_of("cluster.code", self.code, _CODE)
        settings.integer("cluster.stop_timeout_s", self.stop_timeout_s, low=1)
        for name in self.env_vars:
            if names_a_secret(name):
                raise UserError(
                    f"cluster.env_vars must hold no secrets, since Ray shows them on its dashboard, got {name}; "
                    "set it where the cluster's nodes are started"
                )

    def preview(self, job: SweepJob) -> str:
        """Return the address, the entrypoint and the runtime environment as yaml."""
        _require_absolute(job)
        with tempfile.TemporaryDirectory() as folder:
            environment = self._environment(job, Path(folder))
            shipped = sorted(path.name for path in Path(folder).iterdir())
        if shipped:
            environment["working_dir"] = f"a copy of {', '.join(shipped)}"
        shown = {
            "address": self.address,
            "submission_id": f"{job.name}-ATTEMPT",
            "entrypoint": self._entrypoint(job),
            "runtime_env": environment,
        }
        text: str = yaml.safe_dump(shown, sort_keys=False, width=1000)
        return text

    def submit(self, job: SweepJob) -> str:
        """Compare versions, send code and configs, and start the job."""
        _require_absolute(job)
        client = connect(self.address)
        self._require_versions(client)
        job_id = next_id(job, self._jobs(client))
        with tempfile.TemporaryDirectory() as folder, errors_of(self.address):
            environment = self._environment(job, Path(folder))
            if self.code == "installed":
                self._require_installed(client, environment)
            submitted: str = client.submit_job(
                entrypoint=self._entrypoint(job), submission_id=job_id, runtime_env=environment
            )
        return submitted

    def jobs(self) -> Sequence[JobState]:
        """Return the jobs that Ray lists, oldest first; it forgets them when the cluster ends."""
        return self._jobs(connect(self.address))

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yield the output of the job's driver; the run records have more."""
        client = self._client_for(job_id)
        with errors_of(self.address):
            if follow:
                yield from _tail(client, job_id)
            else:
                yield client.get_job_logs(job_id)

    def stop(self, job_id: str) -> None:
        """Stop the job as Ctrl-C would, and wait for its end."""
        client = self._client_for(job_id)
        with errors_of(self.address):
            if not client.stop_job(job_id):
                raise UserError(f"job {job_id} is not under way: it is {client.get_job_status(job_id).value}")
            _wait(client, job_id, self.stop_timeout_s + 10.0)

    def _entrypoint(self, job: SweepJob) -> str:
        config_dir = None if job.config_dir is None else USER_CONFIG
        return sweep_command(job, python=self.python, config_dir=config_dir)

    def _environment(self, job: SweepJob, folder: Path) -> dict[str, Any]:
        """Return the runtime environment, and fill the folder that is sent with the job."""
        stopping = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(self.stop_timeout_s)}
        environment: dict[str, Any] = {"env_vars": {**stopping, **self.env_vars}}
        if self.pip:
            environment["pip"] = list(self.pip)
        ship(folder, job.config_dir, code=self.code == "shipped")
        if any(folder.iterdir()):
            environment["working_dir"] = str(folder)
        return environment

    def _require_versions(self, client: "JobSubmissionClient") -> None:
        metadata = fetched(client, self.address, "/api/v0/cluster_metadata")
        cluster_versions = {"Ray": metadata["rayVersion"]} | ({} if self.pip else {"Python": metadata["pythonVersion"]})
        versions.require_same(f"the Ray cluster at {self.address}", cluster_versions)

    def _require_installed(self, client: "JobSubmissionClient", environment: Mapping[str, Any]) -> None:
        """Check the versions on the cluster by a short job.

        Ray chooses the job's id, so that `jobs` does not list it and a second submission can check again.
        """
        check_id = client.submit_job(entrypoint=versions.print_command(self.python), runtime_env=dict(environment))
        _wait(client, check_id, _CHECK_S)
        output = client.get_job_logs(check_id)
        cluster_versions = versions.printed_versions(output)
        if cluster_versions is None:
            last = " ".join(output.strip().splitlines()[-1:])
            raise UserError(f"cluster.python must run on the cluster, got {self.python!r}: {last}")
        versions.require_same(f"the Ray cluster at {self.address}", cluster_versions)

    def _jobs(self, client: "JobSubmissionClient") -> list[JobState]:
        with errors_of(self.address):
            details = [job for job in client.list_jobs() if (job.submission_id or "").startswith("gmt-")]
        return [
            JobState(
                id=job.submission_id,
                name=sweep_of(job.submission_id),
                state=job.status.value,
                active=job.status.value in _STATES_AT_WORK,
                note=" ".join((job.message or "").split()),
            )
            for job in sorted(details, key=lambda job: job.start_time or 0)
        ]

    def _client_for(self, job_id: str) -> "JobSubmissionClient":
        client = connect(self.address)
        known = [job.id for job in self._jobs(client)]
        if job_id not in known:
            raise UserError(f"there is no job {job_id!r} at {self.address}; choices: {', '.join(known) or 'none'}")
        return client


def _require_absolute(job: SweepJob) -> None:
    if not Path(job.record_root).is_absolute():
        raise UserError(
            "record.root must be an absolute path on a file system that all nodes of the cluster share, "
            f"got {job.record_root!r}"
        )


def _wait(client: "JobSubmissionClient", job_id: str, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while not (status := client.get_job_status(job_id)).is_terminal():
        if time.monotonic() > deadline:
            raise UserError(f"job {job_id} did not end within {timeout_s:.0f} s; it is {status.value}")
        time.sleep(_POLL_S)
    state: str = status.value
    return state


def _tail(client: "JobSubmissionClient", job_id: str) -> Iterator[str]:
    """Yield the output of a job while it grows."""
    loop = asyncio.new_event_loop()
    pieces = client.tail_job_logs(job_id)
    try:
        while True:
            yield loop.run_until_complete(anext(pieces))
    except StopAsyncIteration:
        return
    finally:
        loop.run_until_complete(pieces.aclose())
        loop.close()
