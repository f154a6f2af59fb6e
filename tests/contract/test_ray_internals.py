"""Ray still has the private names that gmt_launchers uses, with the parameters that it knows."""

import inspect
import re
from pathlib import Path

import ray
from gmt_launchers import ray_internals, ray_start
from ray._private import ray_constants, services, utils, worker
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
    assert parameters(utils.get_dashboard_dependency_error) == []


def test_a_node_is_started_by_the_function_with_the_flags_and_settings_that_we_change() -> None:
    started = inspect.getsource(services.start_raylet)
    flags = ("num_prestart_python_workers", "dashboard_agent_command", "metrics-agent-port", "metrics_export_port")
    assert all(f'"--{flag}=' in started for flag in flags)
    assert "PROCESS_TYPE_RAYLET" in started
    assert "runtime_env_agent_port" in parameters(services.start_raylet)
    assert "runtime_env_agent_port=" in inspect.getsource(Node.start_raylet)
    assert isinstance(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV, bool)
    environment = inspect.getsource(worker._maybe_modify_runtime_env)
    assert "if ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV:" in environment
    assert "ray_constants.RAY_RUNTIME_ENV_HOOK in os.environ" in environment


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
    with ray_start.on_the_loopback():
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
            services.start_raylet,
            services.get_node,
            utils.get_dashboard_dependency_error,
            ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV,
        ]

    before = replaced()
    with (
        ray_start.without_unused_processes(),
        ray_internals.in_prestarted_workers(),
        ray_start.notices_its_node_at_once(),
        ray_start.starts_beside_its_agent(),
        ray_start.starts_workers(1, module="json", num_threads=1),
        ray_start.without_uv(),
    ):
        assert not any(now is own for now, own in zip(replaced(), before, strict=True))
    assert all(now is own for now, own in zip(replaced(), before, strict=True))


def test_no_other_file_uses_rays_private_names() -> None:
    folder = Path(ray_internals.__file__).parent
    ours = ("ray_internals.py", "ray_start.py")
    others = [path for path in folder.rglob("*.py") if path.name not in ours]
    assert [path.name for path in others if PRIVATE.search(path.read_text(encoding="utf-8"))] == []
