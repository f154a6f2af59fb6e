"""No variable of the environment changes a result without changing the run id."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.runs.attempt import attempt
from gmt.runs.build import build
from gmt.runs.execute import execute
from gmt.runs.hermetic import KERNELS, changes_results, in_words, remove_variables
from tests.conftest import CONF, Gmt

LIBRARIES = (
    *("accelerate", "transformers", "trl", "datasets", "huggingface_hub", "peft", "lm_eval", "safetensors"),
    *("torch", "triton", "ray/train", "ray/tune"),
)
# Of torch: tests and tools, and compilers of graphs, which no run uses.
_UNUSED = {
    *(
        "testing",
        "benchmark",
        "benchmarks",
        "elastic",
        "hipify",
        "_strobelight",
        "_vendor",
        "examples",
        "xgboost",
        "xla",
        "horovod",
    ),
    *("_dynamo", "_functorch", "_inductor", "fx", "_lazy", "jax"),
}
_READS = re.compile(
    r"""(?:environ(?:\.get|\.pop|\.setdefault)?[\[(]\s*|getenv\(\s*|parse_flag_from_env\(\s*|parse_choice_from_env\(\s*|"""
    r"""get_int_from_env\(\s*\[\s*)f?["']([A-Z][A-Z0-9_]+)"""
)
# Looked through in the versions that are pinned: where files lie, trackers, tokens, logs, tests, other devices.
_LOOKED_THROUGH = re.compile(
    r"(AWS|AZURE|CLEARML|COMET|MLFLOW|WANDB|SWANLAB|HF|HUGGINGFACE|HUGGING_FACE|WATSONX|OPENAI|ANTHROPIC|OAUTH|OPENID|SPACE|"
    r"KUBEFLOW|DATABRICKS|ACTIONS|GITHUB|PYTEST|RUN|CI|TQDM|XDG|RAY|TUNE|TF|TEXTSYNTH|PERSPECTIVE|ECS|NETWORK|ASCEND|HCCL|NPU|"
    r"DCP|KINETO|FR_TRACE|NVSHMEM|ROCSHMEM|ZE|TORCHCOMM|TRITON_(TEST|CI|WARMUP|HSA)|PYTORCH_(ROCM|CNDEV|NVML|SKIP)|"
    r"DATASETS|TOKENIZERS|VLLM|CUDA|HIP|OPENREWARD|TENSORBOARD|DISABLE|SKIP|MODEL|API|NCCL)_\w+"
    r"|FOO|VAR1|CI|BRANCH|NPROC|FORK_LAUNCHED|TRAINING_JOB_ARN|TRUST_REMOTE_CODE|TEMP|TMP|TMPDIR|DO_NOT_TRACK|EAGER_IMPORT|"
    r"NO_COLOR|SHELL|VERTEX_PRODUCT|WEBHOOK_SECRET|ARABIC|COUNTRY|REGION|CLAUDE_CONFIG_DIR|JSONSCHEMA_BENCH_TIMEOUT_S|"
    r"CC|CXX|VCT|PATH|LD_LIBRARY_PATH|LD_PRELOAD|VIRTUAL_ENV|CONDA_(EXE|PREFIX)|PROGRAMFILES|SYSTEMROOT|EDITOR|PYTHON_EXEC|"
    r"(CUDNN|ROCM|ROCR|WINDOWS_CUDA|NVTOOLSEXT)_\w+|ENABLE_PYTORCH_EXECUTION_TRACE\w*|PIP_\w+|MAST_HPC_JOB_NAME|MAX_JOBS|"
    r"TEARDOWN_CUPTI|USE_LIBUV|MKL_SERVICE_FORCE_INTEL|NUM_(GPUS|PROCS)|WARMUP_PROCS|MEGASCALE_PORT|MY_ENV_VAR|"
    r"TRITON_(CACHE_DIR|BACKENDS_IN_TREE|DEFAULT_BACKEND)|TEST_OUTPUT_JSON|"
    r"PYTORCH_(NO_CUDA_MEMORY_CACHING|TUNABLEOP_FILENAME)|TORCH_(NCCL|FR|SYMMMEM|DISTRIBUTED_DEBUG|EXTENSION)\w*|"
    r"TORCH_(COMPILE|SERIALIZATION|FAKE_TENSOR)_DEBUG|TORCH_(CUDA|XPU)_ARCH_LIST|TORCH_ELASTIC_SHUTDOWN_TIMEOUT|"
    r"TORCH_(DISTRIBUTED_COMPILE_ON_ONE_RANK|NATIVE_SKIP_VERSION_CHECK|SPARSE_BSR_SCATTER_MM_LRU_CACHE_SIZE)|"
    r"LM_HARNESS_CACHE_PATH|MEGATRON_PATH|PYTORCH_CNDEV_BASED_MLU_CHECK|PYTORCH_ENABLE_MPS_FALLBACK|"
    r"(ACCELERATE|TRANSFORMERS|TRL|LMEVAL)_\w*(DEBUG|_FILE|_PATH|LOG_LEVEL|VERBOSITY|OFFLINE|WARNINGS|CHECK|SILENCE)\w*"
)
# Each would change a training or an evaluation, stop it or let it wait for ever, if a library read it.
HARMFUL = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_GRADIENT_CLIPPING": "0.01",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_DOWNCAST_BF16": "true",
    "FSDP_OFFLOAD_PARAMS": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "PARALLELISM_CONFIG_TP_SIZE": "2",
    "TRANSFORMERS_SDPA_FORCE_GQA": "1",
    "USE_TORCH": "0",
    "USE_TF": "1",
    "USE_HUB_KERNELS": "no",
    "SM_HP_MP_PARAMETERS": '{"partitions": 2}',
    "SM_FRAMEWORK_PARAMS": '{"sagemaker_mpi_enabled": true}',
    "XLA_USE_BF16": "1",
    "PT_HPU_LAZY_MODE": "0",
    "LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "TORCH_LINEAR_FLATTEN_3D": "1",
    "TORCH_MKLDNN_MATMUL_MIN_DIM": "1",
    "TORCH_COMPILE_BACKEND": "inductor",
    "PYTORCH_JIT": "0",
    "PYTORCH_TUNABLEOP_ENABLED": "1",
    "ONEDNN_CACHE_CONTEXT_UNSAFE": "1",
    "DNNL_CACHE_CONTEXT_UNSAFE": "1",
    "TRITON_DEFAULT_FP_FUSION": "0",
    "CUBLAS_EMULATE_SINGLE_PRECISION": "1",
    "CUBLAS_EMULATION_STRATEGY": "eager",
    "TORCH_DISTRIBUTED_USE_TORCHCOMMS": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "MKL_NUM_THREADS": "2",
    "MKL_DISABLE_FAST_MM": "1",
    "OMP_DYNAMIC": "true",
    "OMP_THREAD_LIMIT": "1",
    "OMP_SCHEDULE": "dynamic,1",
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "NODE_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29777",
    "TORCHELASTIC_RUN_ID": "x",
    "PMI_SIZE": "2",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "0",
    "MV2_COMM_WORLD_SIZE": "2",
}
# Stay, and change nothing: threads are resources.cpus, masks are the same by any kernel, hashes give no order.
NEUTRAL = {
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONHASHSEED": "7",
    "GMT_NATIVE": "0",
    "TOKENIZERS_PARALLELISM": "true",
    "HF_DATASETS_IN_MEMORY_MAX_SIZE": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_LOGS": "-all",
    "TRANSFORMERS_VERBOSITY": "error",
    "LC_ALL": "C",
    "TZ": "Asia/Tokyo",
}


def test_every_variable_that_the_libraries_read_is_taken_out_or_was_looked_through() -> None:
    read = set()
    for name in LIBRARIES:
        package, _, part = name.partition("/")
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent / part
        for path in root.rglob("*.py"):
            if not _UNUSED & set(path.relative_to(root).parts):
                read |= set(_READS.findall(path.read_text(errors="replace")))
    assert len(read) > 200
    undecided = {n for n in read if not changes_results(n) and n not in KERNELS and not _LOOKED_THROUGH.fullmatch(n)}
    assert not undecided, "look where these are read, and decide in gmt/runs/hermetic.py"


@pytest.mark.parametrize("name", HARMFUL)
def test_variables_that_change_results_are_removed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    environment = {name: HARMFUL[name], "PATH": "/bin", **NEUTRAL}
    assert remove_variables(environment) == [name]
    assert environment == {"PATH": "/bin", **NEUTRAL}


@pytest.mark.parametrize("name", ["ACCELERATE_DEEPSPEED_CONFIG_FILE", "TORCHINDUCTOR_CPP_GEMM_CACHE_BLOCKING"])
def test_a_harmless_end_excuses_no_name_that_is_spelled_out(name: str) -> None:
    assert changes_results(name)
    assert not changes_results("ACCELERATE_DEBUG_RDV_FILE")


def test_a_sweep_imports_the_ray_train_that_it_was_written_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "0")
    importlib.reload(importlib.import_module("gmt_launchers"))
    assert os.environ["RAY_TRAIN_V2_ENABLED"] == "1"


@pytest.mark.parametrize(
    "name", [*KERNELS, *NEUTRAL, "HOME", "HF_TOKEN", "CUDA_VISIBLE_DEVICES", "NCCL_SOCKET_IFNAME", "PMIX_MCA_gds"]
)
def test_kernels_and_what_does_not_matter_stay(name: str) -> None:
    assert not changes_results(name)


def test_a_worker_of_ray_train_keeps_what_ray_train_sets() -> None:
    group = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "ACCELERATE_TORCH_DEVICE": "cpu"}
    environment = {**group, "ACCELERATE_MIXED_PRECISION": "bf16"}
    assert remove_variables(environment, in_group=True) == ["ACCELERATE_MIXED_PRECISION"]
    assert environment == group


def test_variables_that_torch_has_read_are_refused() -> None:
    assert "torch" in sys.modules or __import__("torch")
    environment = {"OMP_THREAD_LIMIT": "1"}
    for _ in range(2):  # a worker that is used again is refused again
        with pytest.raises(
            UserError, match="must not set OMP_THREAD_LIMIT, which changes results and which torch has read"
        ):
            remove_variables(environment)
    assert in_words(["RANK", "WORLD_SIZE"]).startswith("note: RANK, WORLD_SIZE of the environment are ignored")


OVERRIDES = ("task=tiny", "method=gmt", "train.num_epochs=1", "resources.cpus=2")


def done_in(root: Path) -> RunRecord:
    """The record of the one run below a root."""
    (folder,) = (root / "runs").iterdir()
    return RunRecord(root / "runs", folder.name)


def weights_without(root: Path) -> str:
    with hydra_on(str(CONF)):
        run = build(Composer().compose_plain([*OVERRIDES, f"record.root={root}"]))
    return str(execute(run).read("result.json")["weights_sha256"])


@pytest.mark.parametrize(
    "command", [pytest.param(["run"], marks=pytest.mark.heavy), pytest.param(["run", "-m"], marks=pytest.mark.slow)]
)
def test_every_harmful_variable_leaves_the_bits_of_a_training_and_is_said(
    command: list[str], gmt: Gmt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WORLD_SIZE and RANK alone would make it wait for ever for a second process, deaf to SIGTERM."""
    expected = weights_without(tmp_path / "without")
    for name, value in (HARMFUL | NEUTRAL).items():
        monkeypatch.setenv(name, value)
    done = gmt(*command, *OVERRIDES, "tracking=none", "--config-dir", str(CONF), is_warm=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith("note: ACCELERATE_DOWNCAST_BF16, ACCELERATE_DYNAMO_BACKEND, ")
    record = done_in(tmp_path / "gmt-results")
    kernels = record.read("environment.json")["kernels"]
    assert kernels["OMP_NUM_THREADS"] == "2"
    assert kernels["cpu"]
    assert record.read("result.json")["weights_sha256"] == expected


def test_a_sweeps_worker_takes_them_out_before_anything_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert attempt({}, tmp_path / "stop", lambda step, score: True).kind == "user"  # no config at all
    assert "WORLD_SIZE" not in os.environ
