"""Uses of Ray's private modules, one function for each; those that change how Ray starts are in ray_start.py.

Imports happen in the functions: some of these modules take seconds, and each process needs one or two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient
    from ray.util.placement_group import PlacementGroup


def temporary_folder() -> str:
    """Return the default folder for Ray's files; RAY_TMPDIR sets it."""
    from ray._common.utils import get_default_system_temp_dir

    return str(get_default_system_temp_dir())


@contextmanager
def in_prestarted_workers() -> Iterator[None]:
    """Make Tune create its actors in the workers that Ray has started beforehand.

    Tune 2.60 gives each actor environment variables, for which Ray starts a new process. On this machine workers
    inherit the driver's variables, and the only other one, PL_DISABLE_FORK, is Lightning's.
    """
    from ray.tune.execution import class_cache

    originals = class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, set()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = originals


def forget_token() -> None:
    """Make Ray read its token again, from the present environment."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # a compiled module

    AuthenticationTokenLoader.instance().reset_cache()


def show_token() -> None:
    """Make Ray use the token that it finds, as it does if it starts or finds a cluster on this machine."""
    from ray._private.authentication import authentication_token_setup

    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def ask_head(address: str) -> None:
    """Connect to a cluster's head.

    Args:
        address: HOST:PORT.

    Raises:
        RayError: it does not answer, or refuses the token.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a compiled module

    GcsClient(address=address)


def is_node(command: Sequence[str] | None) -> bool:
    """Return whether a process's command line is that of one of Ray's nodes."""
    from ray._private import services

    return bool(services._is_raylet_process(command))


def latest_started() -> str | None:
    """Return the address of the cluster that the last `ray start` on this machine has made or joined."""
    from ray._private import services

    address: str | None = services.find_bootstrap_address(None)
    return address


def silence_nodes() -> None:
    """Keep Ray from printing messages of the nodes' processes, for which it has no setting."""
    import ray

    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def logs_folder() -> str | None:
    """Return where Ray's own logs are on this machine; None where this process has no Ray."""
    import ray

    node = ray._private.worker.global_worker.node
    return None if node is None else str(node.get_logs_dir_path())


def free_by_node() -> Mapping[str, Mapping[str, float]]:
    """Return the free resources of each node, by the node's id."""
    from ray._private.state import state

    free: Mapping[str, Mapping[str, float]] = state.available_resources_per_node()
    return free


def groups_of_dead_actors() -> list[PlacementGroup]:
    """Return this driver's placement groups whose actor, which made them, is dead.

    Ray keeps them until the driver ends. Ray Train has an actor that removes them, and that asks Ray's dashboard.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Data
    from ray.util.placement_group import PlacementGroup

    job = ray.get_runtime_context().get_job_id()
    groups = [Data.FromString(entry) for entry in state._connect_and_get_accessor().get_placement_group_table()]
    made_by_actors = [group for group in groups if group.creator_actor_id.strip(b"\xff")]  # all ones: a driver made it
    dead = [group for group in made_by_actors if group.creator_actor_dead and group.state != Data.REMOVED]
    ids = [group.placement_group_id for group in dead]
    return [PlacementGroup(ray.PlacementGroupID(id_)) for id_ in ids if id_.hex().endswith(job)]


def resource_of_head() -> str:
    """Return the name of the resource that the head's node alone has."""
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    return str(HEAD_NODE_RESOURCE_NAME)


def handle_errors_as_deaths() -> None:
    """Make Tune handle any error of Ray as the death of a worker, even while the worker starts.

    Tune 2.60 does so for two classes of errors and ends the whole sweep on any other, such as the error that Ray raises
    after its memory monitor has killed a worker.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.tune.experiment import Trial

    failed, first_result = RayActorManager._actor_task_failed, Trial._get_default_result_or_future
    if getattr(failed, "handles_errors_as_deaths", False):
        return

    def actor_task_failed(self: Any, tracked_actor_task: object, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        failed(self, tracked_actor_task, exception)

    def first_result_or_none(self: Any) -> Any:
        try:
            return first_result(self)
        except RayError:
            self._default_result_or_future = None
            return None

    actor_task_failed.handles_errors_as_deaths = True  # type: ignore[attr-defined]
    RayActorManager._actor_task_failed = actor_task_failed
    Trial._get_default_result_or_future = first_result_or_none


def raised_on_worker(failure: Exception) -> Exception:
    """Return the error that a worker of Ray Train raised, which Ray wraps in one that holds its traceback as text."""
    cause: Exception = getattr(failure, "_base_exc", failure)
    return cause


def torch_backend() -> type[Any]:
    """Return the class by which Ray Train makes torch's process group."""
    from ray.train.torch.config import _TorchBackend

    return _TorchBackend  # type: ignore[no-any-return]


def set_group_variables() -> None:
    """Set, in a worker of Ray Train, the variables that torch's process group reads."""
    from ray.train.torch.config import _set_torch_distributed_env_vars

    _set_torch_distributed_env_vars()


def get_from_dashboard(client: JobSubmissionClient, endpoint: str) -> Any:
    """Return a dashboard's response at an endpoint that Ray's client has no method for."""
    return client._do_request("GET", endpoint)
