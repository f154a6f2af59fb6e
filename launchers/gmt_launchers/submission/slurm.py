"""`cluster=slurm`: submits an sbatch script that starts Ray on the nodes of an allocation and runs the sweep there.

Submit from a machine of the cluster. The code, the environment and the records must be on a file system that all nodes
share.
"""

import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from gmt import settings
from gmt.cluster import JobState, SweepJob, check_gpus
from gmt.credentials import refuse_secrets
from gmt.errors import UserError
from gmt_launchers.submission.attempts import refuse_if_active
from gmt_launchers.submission.entrypoint import sweep_command
from gmt_launchers.submission.programs import output_of

_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
_POLL_S = 1.0
_PIECE_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A Slurm cluster.

    Args:
        partition: the partition of the job; null for the cluster's default.
        account: the account that the job is charged to; null for the cluster's default.
        nodes: the number of nodes.
        cpus_per_node: the number of cores that Ray may use on each node; required to submit.
        gpus_per_node: the number of GPUs that Ray may use on each node.
        memory: the memory of each node as Slurm writes it, e.g. 64G; null for the cluster's default.
        time_limit: the job's time limit as Slurm writes it, e.g. 1-00:00:00.
        requeue: whether a job that is preempted or reaches its time limit is queued again, and resumes.
        signal_before_end_s: how long before the job's end the sweep is told to stop, in seconds.
        start_timeout_s: how long Ray may take to start on all nodes, in seconds.
        sbatch_lines: further options of sbatch, e.g. --constraint=h100.
        setup: shell lines to run first, e.g. module load cuda.
        python: the interpreter; null for the one that submits.
        folder: the folder for scripts and job output, which the nodes share.
        private_folder: the folder for the file with the token, closed to other users, which the nodes share.
    """

    partition: str | None
    account: str | None
    nodes: int
    cpus_per_node: int | None
    gpus_per_node: int
    memory: str | None
    time_limit: str
    requeue: bool
    signal_before_end_s: int
    start_timeout_s: int
    sbatch_lines: Sequence[str]
    setup: Sequence[str]
    python: str | None
    folder: str
    private_folder: str

    def __post_init__(self) -> None:
        for name in ("partition", "account", "memory", "python"):
            if getattr(self, name) is not None:
                settings.text(f"cluster.{name}", getattr(self, name))
        for name in ("time_limit", "folder", "private_folder"):
            settings.text(f"cluster.{name}", getattr(self, name))
        if self.cpus_per_node is not None:
            settings.integer("cluster.cpus_per_node", self.cpus_per_node, low=1)
        for name in ("nodes", "signal_before_end_s", "start_timeout_s"):
            settings.integer(f"cluster.{name}", getattr(self, name), low=1)
        settings.integer("cluster.gpus_per_node", self.gpus_per_node, low=0)
        settings.boolean("cluster.requeue", self.requeue)
        for line in (*self.sbatch_lines, *self.setup):
            refuse_secrets("a line of cluster.sbatch_lines or cluster.setup", line, "read it from a file in setup")

    def preview(self, job: SweepJob) -> str:
        """Return the sbatch script."""
        settings.integer("cluster.cpus_per_node", self.cpus_per_node, low=1)
        check_gpus(job, "cluster.gpus_per_node", self.gpus_per_node)
        python = self.python or sys.executable
        config_dir = None if job.config_dir is None else str(job.config_dir)
        environment = Environment(
            loader=PackageLoader("gmt_launchers.submission", "."), undefined=StrictUndefined, keep_trailing_newline=True
        )
        environment.filters["quote"] = shlex.quote
        return environment.get_template("sbatch.sh.j2").render(
            name=job.name,
            s=self,
            python=python,
            folder=str(self._folder),
            chdir=str(Path.cwd()),
            imports_from_here=any(os.path.abspath(path) == os.getcwd() for path in sys.path),
            private_folder=os.path.expanduser(self.private_folder),
            command=sweep_command(job, python=python, config_dir=config_dir, address='"$address"'),
        )

    def submit(self, job: SweepJob) -> str:
        """Write the script into the folder and submit it by sbatch."""
        text = self.preview(job)
        for state in self.jobs():
            if state.name == job.name:
                refuse_if_active(state)
        self._folder.mkdir(parents=True, exist_ok=True)
        script = self._folder / f"{job.name}.sh"
        script.write_text(text, encoding="utf-8")
        return _slurm("sbatch", "--parsable", str(script)).strip().partition(";")[0]

    def jobs(self) -> Sequence[JobState]:
        """Return the jobs that squeue lists; Slurm forgets a job some minutes after its end."""
        lines = _slurm("squeue", "--me", "--states=all", "--noheader", "--format=%i|%j|%T|%r").splitlines()
        fields = [line.strip().split("|", 3) for line in lines]
        return [
            JobState(id=id_, name=name, state=state, active=state not in _ENDED, note="" if note == "None" else note)
            for id_, name, state, note in fields
            if name.startswith("gmt-")
        ]

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yield the text of the job's output file; a job that is queued again appends to the same file."""
        if not follow:
            yield self._output(job_id).read_text(errors="replace", encoding="utf-8")
            return
        while not self._outputs(job_id) and self._active(job_id):
            time.sleep(_POLL_S)
        with self._output(job_id).open(errors="replace", encoding="utf-8") as output:
            while True:
                active = self._active(job_id)  # checked before reading, so that the last lines are read too
                while piece := output.read(_PIECE_BYTES):
                    yield piece
                if not active:
                    return
                time.sleep(_POLL_S)

    def stop(self, job_id: str) -> None:
        """Signal the sweep to stop after checkpoints, wait up to signal_before_end_s seconds, and cancel the job."""
        state = self._state(job_id)
        if state is None or not state.active:
            raise UserError(f"job {job_id} is not under way; `gmt jobs cluster=slurm` shows those that are")
        deadline = time.monotonic() + self.signal_before_end_s
        if state.state == "RUNNING":
            _slurm("scancel", "--batch", "--signal=TERM", job_id)
            while self._active(job_id) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        if self._active(job_id):
            _slurm("scancel", job_id)

    @property
    def _folder(self) -> Path:
        return Path(os.path.expanduser(self.folder)).resolve()

    def _state(self, job_id: str) -> JobState | None:
        return next((job for job in self.jobs() if job.id == job_id), None)

    def _active(self, job_id: str) -> bool:
        state = self._state(job_id)
        return state is not None and state.active

    def _outputs(self, job_id: str) -> list[Path]:
        return sorted(self._folder.glob(f"gmt-*-{job_id}.out")) if job_id.isdigit() else []

    def _output(self, job_id: str) -> Path:
        outputs = self._outputs(job_id)
        if not outputs:
            raise UserError(f"there is no output of a job {job_id!r} in cluster.folder {self._folder}")
        return outputs[0]


def _slurm(*command: str) -> str:
    return output_of(command, needs="Slurm")
