"""Starts Ray on this machine, or joins a running cluster that answers."""

import atexit
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from gmt.errors import UserError
from gmt.leaving import skip_exit_handlers
from gmt.runs.gpus import gpus_here
from gmt.usable import usable_cores
from gmt_launchers.import_paths import DriverImports, paths_beyond_new_processes
from gmt_launchers.own_cluster import own_address
from gmt_launchers.private_ray import private_ray
from gmt_launchers.ray_internals import ask_head, silence_nodes
from gmt_launchers.ray_start import (
    keeps_idle_workers,
    notices_its_node_at_once,
    starts_beside_its_agent,
    starts_workers,
    without_inherited_environment,
    without_unused_processes,
    without_uv,
)
from gmt_launchers.token import use_token_if_there_is_one

_PRELOADED = "gmt_launchers.preload"
_ANSWER_S = 5.0
_EXIT_S = 15.0  # time for the last messages, and for the last check of the run records
_MAX_MISSED = 5  # checks in a row, a second apart, without an answer; then the head of a joined cluster counts as lost
_MAX_MISSED_HERE = 2  # of a Ray on this machine


@dataclass(frozen=True, kw_only=True)
class EarlyWorkers:
    """Workers that Ray starts beforehand.

    Args:
        number: the number of workers.
        num_threads: the number of threads of libraries that read OMP_NUM_THREADS when they are imported. By default Ray
            sets this variable to the number of a job's cores when the worker gets the job.
    """

    number: int
    num_threads: int


class Head:
    """Watches the head node of a cluster; without it Ray never answers again, and ends this process after a minute.

    Args:
        address: the cluster's address; None for Ray on this machine, which ends with this process.
    """

    def __init__(self, address: str | None):
        self.lost: str | None = None
        self.is_local = address is None
        self._address = address
        host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
        self._host, self._port = host, int(port)
        self._ended = threading.Event()

    def watch(self) -> None:
        """Check the head every second in a separate thread."""
        threading.Thread(target=self._check_repeatedly, name="gmt-head", daemon=True).start()

    def end(self) -> None:
        """Stop watching and leave the cluster.

        After a lost head this calls nothing of Ray, since such a call would never return.
        """
        self._ended.set()
        if self.is_local and not self._answers():
            self._note_loss()
        if self.lost is None:
            ray.shutdown()
        else:
            atexit.unregister(ray.shutdown)
            skip_exit_handlers()  # Ray's own wait for the head for another minute, and then abort
            # In a program other than `gmt` they are not skipped.
            ending = threading.Timer(_EXIT_S, os._exit, (1,))
            ending.daemon = True
            ending.start()

    def _check_repeatedly(self) -> None:
        missed, most = 0, _MAX_MISSED_HERE if self.is_local else _MAX_MISSED
        while missed < most and not self._ended.wait(1.0):
            missed = 0 if self._answers() else missed + 1
        if missed == most:
            self._note_loss()

    def _answers(self) -> bool:
        try:
            socket.create_connection((self._host, self._port), timeout=_ANSWER_S).close()
        except OSError:
            return False
        return True

    def _note_loss(self) -> None:
        if self.is_local:
            self.lost = (
                "Ray, which this sweep started on this machine, has ended, as it does if somebody ends its processes "
                "or memory runs out; the run records hold what was done. Sweep again to go on with it"
            )
        else:
            self.lost = (
                f"the head of the cluster at {self._address} no longer answers; the run records hold what was done. "
                "Sweep again on a running cluster to go on with it"
            )


@contextmanager
def connected(address: str | None, num_cpus: int | None, *, early: EarlyWorkers | None = None) -> Iterator[Head]:
    """Within the block, use a Ray that is started on this machine, or a running cluster.

    Args:
        address: None for Ray on this machine, `auto` for this user's cluster of which this machine is a node, or the
            HOST:PORT of a cluster.
        num_cpus: the number of cores that Ray may use on this machine; None for all that this process may use.
        early: the workers that Ray starts beforehand on this machine; they, and those that it starts later, import
            what a training needs before their first job. None starts workers as Ray does by default; so does any value
            on a machine with GPUs, or in a process that finds modules where a new process would not.

    Raises:
        UserError: nothing answers at the address, the token is wrong or other users can read it, or the versions
            differ.
    """
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # the record of a job has its error
    if address is not None:
        use_token_if_there_is_one()
        address = own_address() if address == "auto" else address
        _check_answers(address)
    with nullcontext() if address is not None else private_ray() as folder:
        head = _start_or_join(address, num_cpus, folder, early)
        try:
            yield head
        finally:
            head.end()


def _start_or_join(address: str | None, num_cpus: int | None, folder: Path | None, early: EarlyWorkers | None) -> Head:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with ExitStack() as ray_changes:
            ray_changes.enter_context(without_uv())
            if address is None:
                ray_changes.enter_context(without_inherited_environment())
                ray_changes.enter_context(without_unused_processes())
                ray_changes.enter_context(starts_beside_its_agent())
                ray_changes.enter_context(keeps_idle_workers())
                ray_changes.enter_context(notices_its_node_at_once())
                if early is not None and _can_import_early():
                    ray_changes.enter_context(
                        starts_workers(early.number, module=_PRELOADED, num_threads=early.num_threads)
                    )
            # An explicit "local": without it Ray silently joins a cluster that somebody left behind.
            ray.init(
                address=address or "local",
                num_cpus=(num_cpus or usable_cores()) if address is None else None,
                num_gpus=gpus_here() if address is None else None,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level="CRITICAL",
                configure_logging=False,
                _temp_dir=None if folder is None else str(folder),
                job_config=DriverImports(joined=address is not None),
            )
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        raise UserError(_connection_fault(address, error, folder)) from error
    _restore_sigterm(on_sigterm)
    silence_nodes()  # their messages are in Ray's logs, and run records have the errors
    head = Head(address)
    head.watch()
    return head


def _can_import_early() -> bool:
    """Return whether a worker may import libraries before it has a job.

    A library may use a GPU before Ray has chosen one for the worker. And a worker searches the driver's folders only
    from its first job on: until then it could import another checkout than the driver.
    """
    return not gpus_here() and not paths_beyond_new_processes()


def _restore_sigterm(handler: Any) -> None:
    """Restore our handler of SIGTERM, which writes checkpoints first; Ray's would exit at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _check_answers(address: str) -> None:
    """Check that a cluster answers, since Ray itself would try for 30 s and then not give the reason."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise UserError(
            "hydra.launcher.address must be null, auto or HOST:PORT, without a scheme, got "
            f"{address!r}: Ray's client starts workers with the imports and folders of its server"
        )
    if not host or not port.isdigit():
        raise UserError(f"hydra.launcher.address must be null, auto or HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
        ask_head(address)
    except (OSError, ray.exceptions.RayError) as error:
        raise UserError(_connection_fault(address, error)) from None  # a wrong address, and no fault of the machine


def _connection_fault(address: str | None, error: Exception, folder: Path | None = None) -> str:
    reason = " ".join(str(error).split())
    if address is None:
        return (
            f"hydra/launcher=ray_tune can't start Ray on this machine: {reason[:300]} (Ray's own logs are in {folder})"
        )
    if "ersion mismatch" in reason:
        return f"the cluster at {address} must have this machine's versions of Ray and Python: {reason[:400]}"
    if isinstance(error, ray.exceptions.AuthenticationError) or "auth" in reason.lower():
        return (
            f"the cluster at {address} refuses the token that Ray finds here (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token must hold the cluster's)"
        )
    return f"hydra.launcher.address must be a Ray cluster that answers, got {address!r}: {reason[:300]}"
