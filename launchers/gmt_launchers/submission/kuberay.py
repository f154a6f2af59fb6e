"""`cluster=kuberay`: submits a RayJob by kubectl; KubeRay's operator starts its cluster, runs it and removes it."""

import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from gmt import settings
from gmt.cluster import JobState, SweepJob, check_gpus
from gmt.credentials import names_a_secret
from gmt.errors import UserError
from gmt_launchers.submission import versions
from gmt_launchers.submission.attempts import next_id, sweep_of
from gmt_launchers.submission.entrypoint import sweep_command
from gmt_launchers.submission.programs import output_of
from gmt_launchers.submission.rayjob import Container, Pods, config_map, rayjob

_LABEL = {"app.kubernetes.io/part-of": "gmt-lab"}
_ENDED = ("Complete", "Failed", "ValidationFailed")
_CONFIG_MOUNT = "/etc/gmt/user_config"


@dataclass(frozen=True, kw_only=True)
class KubeRay:
    """A namespace of a Kubernetes cluster on which KubeRay 1.5.1 or later runs.

    Args:
        namespace: the namespace of all objects.
        image: the image with this project, its libraries and Ray; required to submit.
        python: the interpreter in the image.
        service_account: the service account of the pods, or None.
        head_cpus: the number of cores of the head's pod, which runs the sweep's driver.
        head_memory: the memory of the head's pod as Kubernetes writes it, e.g. 8Gi.
        num_workers: the number of worker pods.
        worker_cpus: the number of cores of each worker pod.
        worker_gpus: the number of GPUs of each worker pod.
        worker_memory: the memory of each worker pod.
        claim: the PersistentVolumeClaim for the run records, which all pods can write (ReadWriteMany); required to
            submit.
        mount: the path at which the claim is mounted; record.root must be inside it.
        env_vars: environment variables of the pods, without secrets.
        secrets: environment variables of the pods from Kubernetes secrets: {VARIABLE: {name: SECRET, key: KEY}}.
        auth_secret: the secret with Ray's token under the key `auth_token`; None lets KubeRay make one.
        retries: how often a job that failed or lost its head's pod is started again; it resumes.
        keep_s: how long the Ray cluster stays after the job's end, in seconds.
    """

    namespace: str
    image: str | None
    python: str
    service_account: str | None
    head_cpus: int
    head_memory: str
    num_workers: int
    worker_cpus: int
    worker_gpus: int
    worker_memory: str
    claim: str | None
    mount: str
    env_vars: Mapping[str, str]
    secrets: Mapping[str, Mapping[str, str]]
    auth_secret: str | None
    retries: int
    keep_s: int

    def __post_init__(self) -> None:
        for name in ("namespace", "python", "head_memory", "worker_memory", "mount"):
            settings.text(f"cluster.{name}", getattr(self, name))
        for name in ("head_cpus", "worker_gpus", "retries", "keep_s"):
            settings.integer(f"cluster.{name}", getattr(self, name), low=0)
        for name in ("num_workers", "worker_cpus"):
            settings.integer(f"cluster.{name}", getattr(self, name), low=1)
        if not self.mount.startswith("/"):
            raise UserError(f"cluster.mount must be an absolute path, got {self.mount!r}")
        for variable in self.env_vars:
            if names_a_secret(variable):
                raise UserError(f"cluster.env_vars must hold no secrets, got {variable}; name it in cluster.secrets")
        for variable, where in self.secrets.items():
            if not isinstance(where, Mapping) or set(where) != {"name", "key"}:
                raise UserError(f"cluster.secrets.{variable} must be {{name: SECRET, key: KEY}} of a Kubernetes secret")

    def preview(self, job: SweepJob) -> str:
        """Return the manifest as yaml."""
        return self._manifest(job, f"{job.name}-1")

    def submit(self, job: SweepJob) -> str:
        """Create the RayJob, and the ConfigMap of the user's configs."""
        self.preview(job)  # finds faults of the settings before kubectl is called
        job_id = next_id(job, self.jobs())
        self._kubectl("apply", "-f", "-", text=self._manifest(job, job_id))
        return job_id

    def jobs(self) -> Sequence[JobState]:
        """Return the RayJobs of this project that still exist."""
        selector = ",".join(f"{key}={value}" for key, value in _LABEL.items())
        listed = json.loads(self._kubectl("get", "rayjobs.ray.io", "--selector", selector, "--output", "json"))
        return [_state(item) for item in listed["items"]]

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yield the output of the RayJob's Kubernetes job."""
        self._require_job(job_id)
        if not follow:
            yield self._kubectl("logs", f"job/{job_id}")
            return
        command = ["kubectl", "--namespace", self.namespace, "logs", f"job/{job_id}", "--follow"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as following:
            assert following.stdout is not None
            yield from following.stdout

    def stop(self, job_id: str) -> None:
        """Delete the RayJob, its Ray cluster and its ConfigMap."""
        self._require_job(job_id)
        self._kubectl("delete", f"rayjob.ray.io/{job_id}", f"configmap/{job_id}-configs", "--ignore-not-found")

    def _manifest(self, job: SweepJob, job_id: str) -> str:
        self._require_mounted(job)
        check_gpus(job, "cluster.worker_gpus", self.worker_gpus)
        metadata = {"name": job_id, "namespace": self.namespace, "labels": dict(_LABEL)}
        files = {} if job.config_dir is None else _files(job.config_dir)
        keys = {f"file-{number}": path for number, path in enumerate(sorted(files))}
        manifests = [
            rayjob(
                metadata,
                self._entrypoint(job),
                ray_version=versions.own_versions()["Ray"],
                head=Pods(replicas=1, cpus=self.head_cpus, gpus=0, memory=self.head_memory),
                workers=Pods(
                    replicas=self.num_workers, cpus=self.worker_cpus, gpus=self.worker_gpus, memory=self.worker_memory
                ),
                container=self._container(job_id, keys),
                service_account=self.service_account,
                auth_secret=self.auth_secret,
                retries=self.retries,
                keep_s=self.keep_s,
            )
        ]
        if files:
            map_metadata = {**metadata, "name": f"{job_id}-configs"}
            manifests.insert(0, config_map(map_metadata, {key: files[path] for key, path in keys.items()}))
        text: str = yaml.safe_dump_all(manifests, sort_keys=False, width=1000)
        return text

    def _container(self, job_id: str, config_items: Mapping[str, str]) -> Container:
        return Container(
            image=settings.text("cluster.image", self.image),
            env_vars=self.env_vars,
            secrets=self.secrets,
            claim=settings.text("cluster.claim", self.claim),
            mount=self.mount,
            config_map=f"{job_id}-configs" if config_items else None,
            config_items=config_items,
            config_mount=_CONFIG_MOUNT,
        )

    def _entrypoint(self, job: SweepJob) -> str:
        """Return the command that checks the image's versions, which are unknown here, and then runs the sweep.

        It is an argument of `sh -c`, since KubeRay inserts the entrypoint into a script, where `&&` would end it.
        """
        config_dir = None if job.config_dir is None else _CONFIG_MOUNT
        sweep = sweep_command(job, python=self.python, config_dir=config_dir)
        return shlex.join(["sh", "-c", f"{versions.compare_command(self.python)} && exec {sweep}"])

    def _require_mounted(self, job: SweepJob) -> None:
        if not PurePosixPath(job.record_root).is_relative_to(self.mount):
            raise UserError(
                f"record.root must lie in cluster.mount {self.mount}, where the claim is, got {job.record_root!r}"
            )

    def _require_job(self, job_id: str) -> None:
        known = [job.id for job in self.jobs()]
        if job_id not in known:
            raise UserError(f"there is no job {job_id!r} in {self.namespace}; choices: {', '.join(known) or 'none'}")

    def _kubectl(self, *arguments: str, text: str | None = None) -> str:
        command = ["kubectl", "--request-timeout=20s", "--namespace", self.namespace, *arguments]
        return output_of(command, needs="kubectl with access to the cluster", text=text)


def _state(item: Mapping[str, Any]) -> JobState:
    name: str = item["metadata"]["name"]
    status = item.get("status", {})
    deployment = status.get("jobDeploymentStatus") or "New"
    return JobState(
        id=name, name=sweep_of(name), state=deployment, active=deployment not in _ENDED, note=status.get("message", "")
    )


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.yaml")}
