"""The rendezvous of a run's workers: on one machine a file that no other user can open.

torch's default is a server that listens on every interface and lets everybody in. Whoever writes to it can redirect the
connections between workers, who may send each other pickled data.
"""

import os
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch
from ray.train.torch import TorchConfig

from gmt_launchers.ray_internals import set_group_variables, torch_backend

_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}  # by default gloo listens on the address of the host's name
_LOOPBACK_ADDRESSES = ("127.", "[::1]")


def torch_config(folder: str, timeout_s: int) -> TorchConfig:
    """Return the config by which Ray Train makes the process group.

    Args:
        folder: a folder on this machine that is closed to other users.
        timeout_s: the timeout of the group's operations, in seconds.
    """
    if str(ray.get_runtime_context().gcs_address).startswith(_LOOPBACK_ADDRESSES):  # the cluster is this machine alone
        return OneMachine(timeout_s=timeout_s, folder=folder)
    return TorchConfig(timeout_s=timeout_s)


@dataclass
class OneMachine(TorchConfig):  # type: ignore[misc]  # Ray ships no types
    """A process group of workers on one machine, which find each other by a file.

    Args:
        folder: the folder of the file.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type:
        """The class that makes the process group."""
        return _FileRendezvous


class _FileRendezvous(torch_backend()):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: OneMachine) -> None:
        """Make the process group as Ray Train's own backend does, but with a file as the rendezvous."""
        worker_group.execute(set_group_variables)
        group = {
            "path": os.path.join(backend_config.folder, f"store-{uuid.uuid4().hex}"),  # an attempt must see no other's
            "backend": "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo",
            "size": len(worker_group),
            "timeout_s": backend_config.timeout_s,
        }
        ray.get([worker_group.execute_single_async(i, _join, worker=i, **group) for i in range(len(worker_group))])


def _join(*, path: str, backend: str, worker: int, size: int, timeout_s: int) -> None:
    """Join the process group; called in each worker."""
    timeout = timedelta(seconds=timeout_s)
    if backend == "gloo":
        os.environ |= _LOOPBACK
    else:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as Ray Train sets it
    store = torch.distributed.FileStore(path, size)  # type: ignore[attr-defined]  # documented, and not in __all__
    store.set_timeout(timeout)
    torch.distributed.init_process_group(backend, store=store, rank=worker, world_size=size, timeout=timeout)
