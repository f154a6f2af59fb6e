"""The manifest of a KubeRay RayJob, as plain data: the CRD ray.io/v1 of KubeRay 1.5.1 (authOptions) and later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

API_VERSION = "ray.io/v1"


@dataclass(frozen=True, kw_only=True)
class Pods:
    """Pods with equal settings.

    Args:
        replicas: the number of pods.
        cpus: the number of cores of each pod.
        gpus: the number of GPUs of each pod.
        memory: the memory of each pod as Kubernetes writes it, e.g. 16Gi.
    """

    replicas: int
    cpus: int
    gpus: int
    memory: str


@dataclass(frozen=True, kw_only=True)
class Container:
    """The settings that all pods share.

    Args:
        image: the image with this project, its libraries and Ray.
        env_vars: environment variables with their values.
        secrets: environment variables from Kubernetes secrets: {VARIABLE: {name: SECRET, key: KEY}}.
        claim: the PersistentVolumeClaim for the run records.
        mount: the path at which the claim is mounted.
        config_map: the ConfigMap of the user's configs, or None.
        config_items: the keys of the ConfigMap with the paths of their files.
        config_mount: the path at which the files are mounted.
    """

    image: str
    env_vars: Mapping[str, str]
    secrets: Mapping[str, Mapping[str, str]]
    claim: str
    mount: str
    config_map: str | None
    config_items: Mapping[str, str]
    config_mount: str


def rayjob(
    metadata: Mapping[str, Any],
    entrypoint: str,
    *,
    ray_version: str,
    head: Pods,
    workers: Pods,
    container: Container,
    service_account: str | None,
    auth_secret: str | None,
    retries: int,
    keep_s: int,
) -> dict[str, Any]:
    """Return the manifest of a RayJob.

    Args:
        metadata: name, namespace and labels.
        entrypoint: the shell command of the job.
        ray_version: the image's version of Ray.
        head: the head's pod; its `replicas` is 1.
        workers: the workers' pods.
        container: the settings that all pods share.
        service_account: the service account of the pods, or None.
        auth_secret: the secret with Ray's token under the key `auth_token`; None lets KubeRay make one.
        retries: how often a failed job is started again on a new cluster.
        keep_s: how long the cluster stays after the job's end, in seconds.
    """
    cluster = {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token"} | ({"secretName": auth_secret} if auth_secret else {}),
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": str(head.cpus), "num-gpus": str(head.gpus)},
            "template": _pod("ray-head", head, container, service_account),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": workers.replicas,
                "minReplicas": workers.replicas,
                "maxReplicas": workers.replicas,
                "rayStartParams": {},
                "template": _pod("ray-worker", workers, container, service_account),
            }
        ],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "RayJob",
        "metadata": dict(metadata),
        "spec": {
            "entrypoint": entrypoint,
            "backoffLimit": retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": keep_s,
            "rayClusterSpec": cluster,
        },
    }


def config_map(metadata: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return a ConfigMap with the contents of files by key."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": dict(metadata), "data": dict(files)}


def _pod(name: str, pods: Pods, container: Container, service_account: str | None) -> dict[str, Any]:
    amounts = {"cpu": str(pods.cpus), "memory": pods.memory} | ({"nvidia.com/gpu": str(pods.gpus)} if pods.gpus else {})
    manifest: dict[str, Any] = {
        "name": name,
        "image": container.image,
        "env": _environment(container),
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "volumeMounts": [{"name": "records", "mountPath": container.mount}],
    }
    volumes: list[dict[str, Any]] = [{"name": "records", "persistentVolumeClaim": {"claimName": container.claim}}]
    if container.config_map is not None:
        manifest["volumeMounts"] += [{"name": "configs", "mountPath": container.config_mount, "readOnly": True}]
        items = [{"key": key, "path": path} for key, path in container.config_items.items()]
        volumes.append({"name": "configs", "configMap": {"name": container.config_map, "items": items}})
    spec: dict[str, Any] = {"containers": [manifest], "volumes": volumes}
    if service_account is not None:
        spec["serviceAccountName"] = service_account
    return {"spec": spec}


def _environment(container: Container) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in container.env_vars.items()]
    variables += [
        {"name": name, "valueFrom": {"secretKeyRef": dict(where)}} for name, where in container.secrets.items()
    ]
    return variables
