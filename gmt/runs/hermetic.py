"""Removes environment variables that would change a run's result without changing its run id. Imports no library.

accelerate, transformers, TRL, torch and the libraries below them read variables that change training or evaluation:
precision, accumulation, compilers, sharding, kernels, the number of processes. The run id covers no variable, so these
are removed before a library reads them. Variables that choose among kernels of the same precision stay, since tests
must be able to switch kernels; environment.json records them.
"""

import os
import re
import sys
from collections.abc import MutableMapping

from gmt.errors import UserError

# Variables that a launcher of several processes sets; here `resources.workers` decides the number of processes.
_GROUP = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|(NODE|CROSS)_(RANK|SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)"
    r"|(TORCHELASTIC|PET|PMI|PMIX|MV2_COMM_WORLD|OMPI_COMM_WORLD)_\w+|MPI_LOCAL(RANKID|NRANKS)"
)
_OF_RAY_TRAIN = frozenset(
    {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
    | {"ACCELERATE_TORCH_DEVICE"}
)
# By name: these are removed whatever their suffix.
_NAMED = re.compile(
    r"USE_(TORCH|TF|JAX|FLAX|TORCH_XLA|HUB_KERNELS)|NVIDIA_TF32_OVERRIDE|TRITON_F32_DEFAULT|TRITON_DEFAULT_FP_FUSION"
    r"|FLASH_ATTENTION_FORCE_\w+|CUBLAS_EMULAT(E|ION)_\w+|CUBLAS_FIXEDPOINT_EMULATION_\w+"
    r"|(ONEDNN|DNNL)_(DEFAULT_FPMATH_MODE|CACHE_CONTEXT_UNSAFE)"
    r"|OMP_(DYNAMIC|THREAD_LIMIT|SCHEDULE|NESTED|MAX_ACTIVE_LEVELS|CANCELLATION)"
    r"|KMP_(DYNAMIC_MODE|DETERMINISTIC_REDUCTION|FORCE_REDUCTION|ALL_THREADS|DEVICE_THREAD_LIMIT|TEAMS_THREAD_LIMIT)"
    r"|ACCELERATE_DEEPSPEED_\w+|TORCH_DISTRIBUTED_USE_TORCHCOMMS|TORCHINDUCTOR_(CPP_GEMM_CACHE_BLOCKING|CACHE_SDPA_\w+)"
)
# By prefix, so that variables of later versions match too; those with a harmless suffix (below) stay.
_OF_LIBRARIES = re.compile(
    r"(ACCELERATE|FSDP|PARALLELISM_CONFIG|MEGATRON_LM|DEEPSPEED|FP8|NVTE|DYNAMO)_\w+"  # accelerate and its plug-ins
    r"|(TRANSFORMERS|TRL|PEFT|SM|SMDATAPARALLEL|LMEVAL)_\w+"
    r"|(TORCH|TORCHINDUCTOR|TORCHDYNAMO|INDUCTOR|PYTORCH|AOT|TENSORIFY)_\w+"
    r"|(XLA|PJRT|TPU|NEURON|PT_HPU|HABANA|MKL)_\w+"
)
# Harmless variables with these prefixes: places of files, logs and checks, allocation of memory, addresses of nodes,
# settings of Open MPI that images with a GPU's libraries set.
_HARMLESS = re.compile(
    r".*(_VERSION|_HOME|_DIR|_PATH|_FILE|_FILENAME|_CONF|_LOGS?|_LOG_LEVEL|_LOGLEVEL|_VERBOSE|_VERBOSITY|_OFFLINE|_SILENCE)"
    r"|.*(_DEBUG(_\w+)?|_CACHE(_\w+)?|_TIMEOUT(_\w+)?|_STACKTRACES?|_WARNINGS|_CHECK|_ARCH(_LIST)?|_TRACE(_\w+)?)"
    r"|TORCH_(NCCL|FR|GLOO|SYMMMEM|DISTRIBUTED|SYMBOLIZE|DISABLE_ADDR2LINE|EXTENSION)\w*"
    r"|PYTORCH_(NO_CUDA_MEMORY_CACHING|ENABLE_MPS_FALLBACK)|TORCHINDUCTOR_COMPILE_THREADS|TPU_VISIBLE_\w+|PMIX_MCA_\w+"
    r"|MKL_(THREADING_LAYER|SERVICE_FORCE_INTEL|INTERFACE_LAYER)"  # which a conda environment may need to start at all
)
# Choices of kernels of the same precision, which may change the last bits, as another processor does.
KERNELS = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE", "GLIBC_TUNABLES", "OMP_NUM_THREADS"),
    *("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC", "NCCL_ALGO", "NCCL_PROTO"),
    *("DISABLE_ADDMM_CUDA_LT", "TRITON_INTERPRET"),
)
# Read once, when a library is loaded: removing them later has no effect.
_AT_IMPORT = re.compile(
    r"OMP_\w+|KMP_\w+|USE_\w+|TORCH_(BLAS|LINALG)_PREFER_\w+|TORCH_LINEAR_FLATTEN_3D|TORCH_MKLDNN_\w+|PYTORCH_JIT\w*"
)


def changes_results(name: str) -> bool:
    """Return whether a variable may change a result; False for those in KERNELS, which are recorded instead."""
    if name in KERNELS:
        return False
    if name in _OF_RAY_TRAIN or _NAMED.fullmatch(name):
        return True
    return bool(_GROUP.fullmatch(name) or _OF_LIBRARIES.fullmatch(name)) and not _HARMLESS.fullmatch(name)


def remove_variables(environment: MutableMapping[str, str] = os.environ, *, in_group: bool = False) -> list[str]:
    """Remove the variables from the environment that would change a result without changing its run id.

    Args:
        environment: this process's environment; edited in place.
        in_group: whether this process is a worker of Ray Train, which sets some of these variables itself.

    Returns:
        The names of the removed variables.

    Raises:
        UserError: a library has read one of them already.
    """
    names = sorted(n for n in environment if changes_results(n) and not (in_group and n in _OF_RAY_TRAIN))
    if "torch" in sys.modules and (late := [name for name in names if _AT_IMPORT.fullmatch(name)]):
        raise UserError(
            f"the environment must not set {', '.join(late)}, which changes results and which torch has read in this "
            "process already: unset it (on a cluster, in the environment that starts its nodes) and start again"
        )
    for name in names:
        del environment[name]
    return names


def in_words(names: list[str]) -> str:
    """Return a line that tells the user which variables were removed."""
    variables = f"{', '.join(names)} of the environment {'is' if len(names) == 1 else 'are'} ignored"
    return f"note: {variables}, since a run's results must depend on its config alone (docs/records.md)"
