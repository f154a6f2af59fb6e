"""Ray still has the private names that gmt_launchers/ray_internals.py uses, with the parameters that it knows."""

import inspect
import re
from pathlib import Path

import ray
from gmt_launchers import ray_internals
from ray._private import ray_constants, services
from ray._private.node import Node
from ray._private.state import state
from ray._raylet import AuthenticationTokenLoader, GcsClient
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.job_config import JobConfig
from ray.job_submission import JobSubmissionClient
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

PRIVATE = re.compile(r"ray\.(_(?!_)|[a-z_.]+\._)|from ray[a-z_.]* import _|client\._do_|\b_base_exc\b")


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_functions_that_we_replace_have_the_parameters_that_we_know() -> None:
    assert parameters(RayActorManager._actor_task_failed) == ["self", "tracked_actor_task", "exception"]
    assert parameters(Trial._get_default_result_or_future) == ["self"]
    assert callable(ray._private.worker.print_to_stdstream)
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert parameters(Node.start_monitor) == parameters(Node.start_log_monitor) == ["self"]
    assert parameters(Node.start_api_server) == ["self", "include_dashboard", "raise_on_failure"]
    assert class_cache.DEFAULT_ENV_VARS == {"PL_DISABLE_FORK": "1"}
    assert isinstance(class_cache.ENV_VARS_TO_PROPAGATE, set)
    assert parameters(services.get_node) == ["gcs_address", "node_id"]
    assert "ray._private.services.get_node(" in inspect.getsource(Node)
    assert parameters(services.start_ray_process)[:2] == ["command", "process_type"]
    assert '"--num_prestart_python_workers={}"' in inspect.getsource(services.start_raylet)


def test_functions_that_we_call_take_our_arguments() -> None:
    assert parameters(JobSubmissionClient._do_request)[:3] == ["self", "method", "endpoint"]
    assert parameters(_TorchBackend.on_start) == ["self", "worker_group", "backend_config"]
    assert parameters(_set_torch_distributed_env_vars) == []
    assert parameters(state.available_resources_per_node) == []
    assert callable(AuthenticationTokenLoader.instance().reset_cache)
    assert callable(GcsClient)
    assert services._is_raylet_process(["/x/raylet/raylet", "--node_ip_address=127.0.0.1"])
    assert not ray_internals.is_node(["python", "train.py"])
    assert "_py_driver_sys_path" in parameters(JobConfig)
    assert parameters(services.find_bootstrap_address) == ["temp_dir"]


def test_the_loopback_ends_with_its_block() -> None:
    before = ray_constants.ENABLE_RAY_CLUSTER
    with ray_internals.on_the_loopback():
        assert ray_constants.ENABLE_RAY_CLUSTER is False
    assert ray_constants.ENABLE_RAY_CLUSTER is before


def test_ray_has_its_own_functions_and_variables_again_after_a_block() -> None:
    def replaced() -> list[object]:
        names = ("start_monitor", "start_api_server", "start_log_monitor")
        return [
            *(getattr(Node, name) for name in names),
            class_cache.DEFAULT_ENV_VARS,
            class_cache.ENV_VARS_TO_PROPAGATE,
            services.start_ray_process,
            services.get_node,
        ]

    before = replaced()
    with (
        ray_internals.without_unused_processes(),
        ray_internals.in_prestarted_workers(),
        ray_internals.notices_its_node_at_once(),
        ray_internals.starts_workers(1, module="json", num_threads=1),
    ):
        assert not any(now is own for now, own in zip(replaced(), before, strict=True))
    assert all(now is own for now, own in zip(replaced(), before, strict=True))


def test_no_other_file_uses_rays_private_names() -> None:
    folder = Path(ray_internals.__file__).parent
    others = [path for path in folder.rglob("*.py") if path.name != "ray_internals.py"]
    assert [path.name for path in others if PRIVATE.search(path.read_text(encoding="utf-8"))] == []
